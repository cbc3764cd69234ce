"""ViT in transformers (model_type "vit"); timm's and Google's formats stand beside, in vit_timm and vit_google."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.registry import create_model
from vision_jax.models.vit import ViT
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families.description import (
    ACTIVATIONS_OF_TRANSFORMERS,
    HALF,
    Description,
    activation,
    left_over,
    pair,
    preprocessing,
    read_config,
    real,
    refuse,
    shape_of,
    whole,
)
from vision_jax.weights.families.entries import conv, dense, norm
from vision_jax.weights.mapping import Entry

# ViTConfig's defaults, for config.json written by hand or by old versions.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
    "pooler_act": "tanh",
}
# Names in a block, as in all published files, and as in the modules of transformers 5.
_CLASSIC = {
    **{name: f"attention.attention.{name}" for name in ("query", "key", "value")},
    **{"out": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense"},
}
_RECENT = {
    **{name: f"attention.{name[0]}_proj" for name in ("query", "key", "value", "out")},
    **{"fc1": "mlp.fc1", "fc2": "mlp.fc2"},
}


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """ViTForImageClassification, or ViTModel: its features are the pooler's output, where the file has a pooler.

    representation_size=None among the `given` leaves the pooler out, so that the class token is the feature.
    """
    config, given = read_config(config, DEFAULTS), dict(given or {})
    prefix, pooler = prefix_of(tensors), f"{prefix_of(tensors)}pooler.dense.weight"
    size = None
    if pooler in tensors and "classifier.weight" not in tensors and "representation_size" not in given:
        if config["pooler_act"] != "tanh":
            raise ConfigError(
                f"config.json has pooler_act={config['pooler_act']!r}, but only 'tanh' is known here; "
                "representation_size=None leaves the pooler out"
            )
        size = shape_of(tensors, pooler, 2)[0]
    image_size = pair(given.pop("image_size", config["image_size"]))
    classes = shape_of(tensors, "classifier.weight", 2)[0] if "classifier.weight" in tensors else 0
    fields = {**encoder_fields(config), "cls_token": True, "num_classes": classes, "representation_size": size, **given}
    blocks = blocks_in(tensors, prefix)
    table = table_transformers(create_model("vit", **fields), prefix, blocks)
    ignored = left_over(tensors, table, blocks, lambda name: "pooler." in name or "mask_token" in name)
    return Description("vit", fields, image_size, preprocessing(HALF, "bilinear", "squash"), table, ignored)


def encoder_fields(config: Mapping) -> dict[str, Any]:
    """Fields of `create_model` that ViTConfig and ViTMAEConfig say."""
    patch = config["patch_size"]
    return {
        "patch_size": pair(patch)[0] if isinstance(patch, int) else pair(patch),
        "width": whole(config, "hidden_size"),
        "depth": whole(config, "num_hidden_layers", limits.MODEL_DEPTH, least=0),
        "num_heads": whole(config, "num_attention_heads"),
        "mlp_dim": whole(config, "intermediate_size"),
        "act": activation(config["hidden_act"]),
        "norm_eps": real(config, "layer_norm_eps"),
        "qkv_bias": config["qkv_bias"],
    }


def prefix_of(tensors: Mapping) -> str:
    """Of the encoder's names: "vit." where it is a part of a model with a head or decoder."""
    return "vit." if any(name.startswith("vit.") for name in tensors) else ""


def blocks_in(tensors: Mapping, prefix: str) -> str:
    """What stands before a block's number."""
    is_recent = any(name.startswith(f"{prefix}layers.") for name in tensors)
    return f"{prefix}layers." if is_recent else f"{prefix}encoder.layer."


def table_transformers(model: ViT, prefix: str | None = None, blocks: str | None = None) -> list[Entry]:
    """Names as ViTForImageClassification has them, as ViTModel without classes; prefix, blocks: of other files."""
    prefix = ("vit." if model.num_classes else "") if prefix is None else prefix
    table = encoder_table(model, prefix, blocks or f"{prefix}encoder.layer.", model.posemb.startswith("learn"))
    if model.representation_size:
        table += dense("pre_logits", f"{prefix}pooler.dense")
    return table + (dense("head", "classifier") if model.num_classes else [])


def encoder_table(model, prefix: str, blocks: str, has_positions: bool) -> list[Entry]:
    """Of the encoder that ViT and MAE share; `model` is either."""
    table = [Entry("cls_token", f"{prefix}embeddings.cls_token")]
    if has_positions:
        table.append(Entry("pos_embed", f"{prefix}embeddings.position_embeddings"))
    table += conv("patch_embed", f"{prefix}embeddings.patch_embeddings.projection")
    qkv_bias = getattr(model, "qkv_bias", True)
    for i in range(model.depth):
        table += block_table(f"blocks_{i}", f"{blocks}{i}", qkv_bias, blocks.endswith("layers."))
    return table + norm("norm", f"{prefix}layernorm")


def block_table(ours: str, theirs: str, qkv_bias: bool, is_recent: bool) -> list[Entry]:
    names = _RECENT if is_recent else _CLASSIC
    table = norm(f"{ours}/norm1", f"{theirs}.layernorm_before") + norm(f"{ours}/norm2", f"{theirs}.layernorm_after")
    for part in ("query", "key", "value", "out"):
        table += dense(f"{ours}/attn/{part}", f"{theirs}.{names[part]}", part == "out" or qkv_bias)
    for part in ("fc1", "fc2"):
        table += dense(f"{ours}/mlp/{part}", f"{theirs}.{names[part]}")
    return table


def config_transformers(model: ViT, image_size: tuple[int, int]) -> dict[str, Any]:
    """config.json of ViTForImageClassification, or of ViTModel without classes.

    Raises ConfigError naming the field of a model that transformers' ViT cannot be.
    """
    refuse(
        model,
        "transformers' ViT",
        {
            "pool": ("token",),
            "stem": (None,),
            "num_registers": (0,),
            "posemb": ("learn_1d", "learn_sincos2d", "sincos2d", "sincos2d_bv"),
            "posemb_cls": (True,),
            "patch_bias": (True,),
            "pre_norm": (False,),
            "layer_scale_init": (None,),
            "norm_pooled": (False,),
            "head_batch_norm": (False,),
            "representation_size": (None,) if model.num_classes else (model.representation_size,),
        },
    )
    config = {"model_type": "vit", **encoder_config(model, image_size), "pooler_act": "tanh"}
    if not model.num_classes:
        return {**config, "architectures": ["ViTModel"], "pooler_output_size": model.representation_size or model.width}
    labels = {str(i): f"LABEL_{i}" for i in range(model.num_classes)}
    return {
        **config,
        "architectures": ["ViTForImageClassification"],
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
    }


def encoder_config(model, image_size: tuple[int, int]) -> dict[str, Any]:
    """What ViTConfig and ViTMAEConfig say of the encoder; `model` is either."""
    height, width = image_size
    return {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_dim,
        "hidden_act": ACTIVATIONS_OF_TRANSFORMERS[model.act],
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": getattr(model, "qkv_bias", True),
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size if isinstance(model.patch_size, int) else list(model.patch_size),
        "num_channels": 3,
        "dtype": "float32",
    }


def constants_transformers(model: ViT, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What transformers keeps in the file and we compute: fixed positions, by their names there."""
    if model.posemb.startswith("learn"):
        return {}
    kind = "big_vision" if model.posemb.endswith("_bv") else "mae"
    name = f"{'vit.' if model.num_classes else ''}embeddings.position_embeddings"
    return {name: sincos2d(model.grid(image_size), model.width, kind, prefix=1)}
