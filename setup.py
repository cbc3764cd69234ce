"""Package metadata; tools are configured in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

# Ranges that the tests have run on: Python 3.11 with jax 0.10.2, and 3.12 with jax 0.12.
CORE = ["jax>=0.10.2,<0.13", "flax>=0.12.8,<0.13", "numpy>=2.0,<3", "ml_collections>=1.1,<2"]
TRAIN = [
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "tensorflow-datasets>=4.9.10,<5",
    "importlib_resources",  # tensorflow-datasets imports it without declaring it
    "chex>=0.1.92,<0.2",
    "pillow>=11.0,<14",
    "scikit-learn>=1.5,<2",
    "tensorboardX>=2.6.2,<3",
    "tqdm>=4.66,<5",
]
HUB = ["huggingface_hub>=0.30"]
CLIP = [*HUB, "ftfy>=6.3", "regex", "tokenizers>=0.21", "ahocorasick_rs>=1.0,<2"]
TEST = ["setuptools>=77", "matplotlib", "pytest>=8.0", "pytest-xdist", "hypothesis", "ruff"]

setup(
    name="vision_jax",
    version="0.1.0",
    description="ViT, Swin, MAE and CLIP in JAX: modules, weights and exactly resumable training",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["vision_jax", "vision_jax.*"]), "vision_jax.configs"],
    package_dir={"vision_jax.configs": "configs"},
    entry_points={"console_scripts": ["vision-jax = vision_jax.cli:main"]},
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "test": [*TRAIN, *CLIP, *TEST],
        "parity": ["torch", "transformers>=5", "timm", "safetensors"],
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
        "clip": [*TRAIN, *CLIP],
        "hub": HUB,
        "wandb": [*TRAIN, "wandb>=0.19"],
        "notebooks": [*TRAIN, "matplotlib", "jupyter"],
    },
)
