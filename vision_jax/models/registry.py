"""Models by name. A family is a module's class; a name stands for a family and the fields that differ from its defaults."""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from vision_jax import limits, parts
from vision_jax.errors import ConfigError
from vision_jax.models.others_names import model_hint
from vision_jax.values import shown

FAMILIES = {
    "vit": "vision_jax.models.vit:ViT",
    "resnet": "vision_jax.models.resnet:ResNet",
    "swin": "vision_jax.models.swin:Swin",
    "mae": "vision_jax.models.mae:MAE",
    "modified_resnet": "vision_jax.models.modified_resnet:ModifiedResNet",
    "clip": "vision_jax.models.clip:CLIP",
}

_MAY_BE_ZERO = ("num_classes", "num_registers")
_COUNT_BLOCKS = ("depth", "depths", "blocks", "stem", "text_depth", "decoder_depth")

# ViT paper, table 1; Ti and S are DeiT's (Touvron et al., 2021).
_VIT = {
    "ti": {"width": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "s": {"width": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "b": {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "l": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "h": {"width": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120},
}


# From the papers and configs of Swin and Swin V2 (microsoft/Swin-Transformer): V1 and V2 differ in the window only.
_SWIN = {
    "t": {"width": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "s": {"width": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "b": {"width": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "l": {"width": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}


def _vit(size: str, patch_size: int, stem: tuple[int, ...] | None = None) -> tuple[str, dict]:
    return "vit", {"patch_size": patch_size, **_VIT[size], **({} if stem is None else {"stem": stem})}


def _mae(size: str, patch_size: int) -> tuple[str, dict]:
    return "mae", {"patch_size": patch_size, **_VIT[size]}


def _swin(size: str, window: int = 7) -> tuple[str, dict]:
    return "swin", {**_SWIN[size], "window": window}


def _swinv2(size: str, window: int = 8, pretrained: int | None = None) -> tuple[str, dict]:
    # V2 learned its offsets at 192 pixels with window 12, which shrank to 6 in the last stage.
    windows = None if pretrained is None else (pretrained, pretrained, pretrained, pretrained // 2)
    return "swin", {**_SWIN[size], "window": window, "version": 2, "pretrained_window": windows}


# How OpenAI's image tower differs from Google's ViT.
_CLIP_VIT = {"pre_norm": True, "patch_bias": False, "act": "quick_gelu", "norm_eps": 1e-5, "weight_init": "clip"}


def _clip(text_width: int, embed_dim: int, **fields) -> tuple[str, dict]:
    return "clip", {"embed_dim": embed_dim, "text_width": text_width, "text_num_heads": text_width // 64, **fields}


def _clip_vit(tower: str, text_width: int, **image) -> tuple[str, dict]:
    return _clip(text_width, text_width, image_tower=tower, image={**_CLIP_VIT, **image})


def _clip_resnet(blocks: tuple[int, ...], width: int, text_width: int, embed_dim: int) -> tuple[str, dict]:
    image = {"blocks": blocks, "width": width}
    return _clip(text_width, embed_dim, image_tower="modified_resnet", image=image, image_projection_bias=True)


MODELS = {
    "vit_ti16": _vit("ti", 16),
    "vit_s32": _vit("s", 32),
    "vit_s16": _vit("s", 16),
    "vit_b32": _vit("b", 32),
    "vit_b16": _vit("b", 16),
    "vit_b8": _vit("b", 8),
    "vit_l32": _vit("l", 32),
    "vit_l16": _vit("l", 16),
    "vit_h14": _vit("h", 14),
    # Hybrids: patches of the ResNet's features. R+Ti/16 is called /16 though its stride is 4 * 8 = 32.
    "vit_r_ti16": _vit("ti", 8, stem=()),
    "vit_r26_s32": _vit("s", 1, stem=(2, 2, 2, 2)),
    "vit_r26_b32": _vit("b", 1, stem=(2, 2, 2, 2)),
    "vit_r50_b16": _vit("b", 1, stem=(3, 4, 9)),
    "vit_r50_l32": _vit("l", 1, stem=(3, 4, 6, 3)),
    "resnet26": ("resnet", {"blocks": (2, 2, 2, 2)}),
    "resnet50": ("resnet", {"blocks": (3, 4, 6, 3)}),
    "mae_vit_b16": _mae("b", 16),
    "mae_vit_l16": _mae("l", 16),
    "mae_vit_h14": _mae("h", 14),
    # Window 7 is meant for images of 224 pixels, window 12 for 384.
    "swin_t": _swin("t"),
    "swin_s": _swin("s"),
    "swin_b": _swin("b"),
    "swin_l": _swin("l"),
    "swin_b_w12": _swin("b", 12),
    "swin_l_w12": _swin("l", 12),
    # Windows 8 and 16 are meant for 256 pixels, 12 for 192, 24 for 384; "12to" were pre-trained with window 12.
    "swinv2_t": _swinv2("t"),
    "swinv2_s": _swinv2("s"),
    "swinv2_b": _swinv2("b"),
    "swinv2_l": _swinv2("l"),
    "swinv2_t_w16": _swinv2("t", 16),
    "swinv2_s_w16": _swinv2("s", 16),
    "swinv2_b_w16": _swinv2("b", 16),
    "swinv2_b_w12": _swinv2("b", 12),
    "swinv2_l_w12": _swinv2("l", 12),
    "swinv2_b_w12to16": _swinv2("b", 16, 12),
    "swinv2_l_w12to16": _swinv2("l", 16, 12),
    "swinv2_b_w12to24": _swinv2("b", 24, 12),
    "swinv2_l_w12to24": _swinv2("l", 24, 12),
    # Meant for images of 224 pixels, but rn50x4 for 288, rn50x16 for 384, rn50x64 for 448 and vit_l14_336 for 336.
    "clip_rn50": _clip_resnet((3, 4, 6, 3), 64, 512, 1024),
    "clip_rn101": _clip_resnet((3, 4, 23, 3), 64, 512, 512),
    "clip_rn50x4": _clip_resnet((4, 6, 10, 6), 80, 640, 640),
    "clip_rn50x16": _clip_resnet((6, 8, 18, 8), 96, 768, 768),
    "clip_rn50x64": _clip_resnet((3, 15, 36, 10), 128, 1024, 1024),
    "clip_vit_b32": _clip_vit("vit_b32", 512),
    "clip_vit_b16": _clip_vit("vit_b16", 512),
    "clip_vit_l14": _clip_vit("vit_l16", 768, patch_size=14),
    "clip_vit_l14_336": _clip_vit("vit_l16", 768, patch_size=14),
}


def list_models(pattern: str = "*") -> list[str]:
    """Every name that `create_model` accepts and that matches a pattern such as "swin*", sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(name: str, **overrides):
    """The flax.linen.Module with that name, with any field overridden; lists count as tuples.

    A family's name stands for its module with all defaults, "package.module:Attribute" for a model of your own: a class, or
    a function that returns a module. A mapping is merged over the registered one; but if `image_tower` is given, the
    registered fields of the image tower are dropped, since another tower has its own. Raises ConfigError for an unknown
    name or field, naming the nearest, and for a value that cannot work.
    """
    module, fields = module_of(name, overrides)
    try:
        return module(**fields)
    except (ArithmeticError, TypeError, ValueError, MemoryError) as error:  # for incompatible fields
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model '{name}' with {shown(dict(overrides))}: {type(error).__name__}: {error}") from error


def module_of(name: str, overrides: Mapping) -> tuple[Any, dict[str, Any]]:
    """The class of the model with that name and its checked fields, from which `create_model` creates the model."""
    module, fields = _registered(name)
    if "image_tower" in overrides:
        fields = {field: value for field, value in fields.items() if field != "image"}
    given = parts.checked_fields(f"model '{name}'", module, overrides)
    for field, value in given.items():
        _check_range(field, value)
        fields = {**fields, field: {**fields.get(field, {}), **value} if isinstance(value, Mapping) else value}
    return module, fields


def model_fields(name: str) -> dict[str, Any]:
    """Every field of that model and its default. Raises ConfigError for an unknown name, naming the nearest."""
    module, fields = _registered(name)
    return {**{field: default for field, (_, default) in parts.fields_of(module).items()}, **fields}


def check_name(name: str) -> None:
    """Raises ConfigError for a name that is neither a model's, nor a family's, nor "package.module:Attribute"."""
    if name not in MODELS and name not in FAMILIES and ":" not in name:
        raise ConfigError(f"unknown model {shown(name)}{model_hint(name, MODELS)}")


def named_fields(name: str) -> dict[str, Any]:
    """The fields in which that name differs from its family; {} for a family's own name and for models of your own."""
    return dict(MODELS.get(name, (name, {}))[1])


def _registered(name: str) -> tuple[Any, dict[str, Any]]:
    """The class or function behind a model's name, and its registered fields; none for a family's own name."""
    check_name(name)
    family, fields = MODELS.get(name, (name, {}))
    module = parts.find("config.model.name", family, FAMILIES)
    if dataclasses.is_dataclass(module) and not isinstance(module, type):  # an instance of a module
        module, fields = type(module), {field: getattr(module, field) for field in parts.fields_of(type(module))}
    return module, fields


def _check_range(field: str, value: Any) -> None:
    """Raises ConfigError for a number that no model can have: sizes must be at least 1, shares below 1."""
    what = f"model field '{field}'"
    if isinstance(value, tuple):
        for item in value:
            _check_range(field, item)
    if type(value) is int:
        least = 0 if field in _MAY_BE_ZERO else 1
        most = limits.MODEL_DEPTH if field in _COUNT_BLOCKS else limits.MODEL_SIZE
        if not least <= value <= most:
            raise ConfigError(f"{what} must lie between {least} and {most:,}, got {shown(value)}")
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{what} must be finite, got {value}")
    if type(value) is float and field.endswith("_rate") and not 0 <= value < 1:
        raise ConfigError(f"{what} must lie in [0, 1), got {value}")
    if type(value) is float and field in ("norm_eps", "mlp_ratio") and not 0 < value < limits.MODEL_SIZE:
        raise ConfigError(f"{what} must be positive, got {value}")
