"""ViT, Swin, MAE and CLIP in JAX. The public interface; each name is imported when first used."""

import importlib

_PUBLIC = {
    "list_models": "vision_jax.models.registry",
    "create_model": "vision_jax.models.registry",
    "encode": "vision_jax.models.inference",
    "intermediates": "vision_jax.models.intermediates",
    "reconstruct": "vision_jax.models.inference",
    "train": "vision_jax.runs",
    "open_run": "vision_jax.runs",
    "evaluate": "vision_jax.runs",
    "predict": "vision_jax.predict",
    "load_pretrained": "vision_jax.weights.pretrained",
    "class_names": "vision_jax.weights.pretrained",
    "save_pretrained": "vision_jax.weights.exports",
    "preprocessing": "vision_jax.weights.preprocessing",
    "Preprocessing": "vision_jax.weights.preprocessing",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("vision_jax")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vision_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
