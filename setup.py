"""Package metadata; tools are configured in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

CORE = ["jax>=0.10.0", "flax>=0.12.8", "numpy>=2.0", "ml_collections>=1.1"]
TRAIN = [
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources",  # tensorflow-datasets imports it without declaring it
    "chex>=0.1.92",
    "pillow>=11.0",
    "scikit-learn>=1.5",
    "tensorboardX>=2.6.2",
]
TEST = ["pytest>=8.0", "pytest-xdist", "hypothesis", "ruff"]

setup(
    name="vision_jax",
    version="0.1.0",
    description="ViT, Swin, MAE and CLIP in JAX: modules, weights and exactly resumable training",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vision_jax", "vision_jax.*"]),
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "test": [*TRAIN, *TEST],
        "parity": ["torch", "transformers>=5", "timm", "safetensors"],
        "tpu": ["jax[tpu]>=0.10.0"],
        "cuda": ["jax[cuda13]>=0.10.0"],
        "notebooks": [*TRAIN, "matplotlib", "jupyter"],
    },
)
