"""ViT, Swin, MAE and CLIP in JAX. The public interface; each name is imported when first used."""

import importlib

_PUBLIC = {
    "list_models": "vision_jax.models.registry",
    "create_model": "vision_jax.models.registry",
    "encode": "vision_jax.models.inference",
    "reconstruct": "vision_jax.models.inference",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vision_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
