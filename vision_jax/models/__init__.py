"""Linen modules: pure functions of plain dictionaries of parameters, for any JAX project to import.

Each name is imported when first used, so that model names are available without jax.
"""

import importlib

_PUBLIC = {
    "CLIP": "clip",
    "MAE": "mae",
    "ModifiedResNet": "modified_resnet",
    "ResNet": "resnet",
    "Swin": "swin",
    "TextTransformer": "text",
    "ViT": "vit",
    "create_model": "registry",
    "list_models": "registry",
    "model_fields": "registry",
    "stack_blocks": "stacking",
    "unstack_blocks": "stacking",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vision_jax.models' has no attribute '{name}'")
    return getattr(importlib.import_module(f"vision_jax.models.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
