"""Linen modules: pure functions of plain dictionaries of parameters, for any JAX project to import."""

from vision_jax.models.clip import CLIP
from vision_jax.models.mae import MAE
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.registry import create_model, list_models, model_fields
from vision_jax.models.resnet import ResNet
from vision_jax.models.stacking import stack_blocks, unstack_blocks
from vision_jax.models.swin import Swin
from vision_jax.models.text import TextTransformer
from vision_jax.models.vit import ViT

__all__ = [
    "CLIP",
    "MAE",
    "ModifiedResNet",
    "ResNet",
    "Swin",
    "TextTransformer",
    "ViT",
    "create_model",
    "list_models",
    "model_fields",
    "stack_blocks",
    "unstack_blocks",
]
