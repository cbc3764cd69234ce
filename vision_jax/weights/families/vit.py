"""ViT in transformers (model_type "vit"); timm's and Google's formats are in vit_timm and vit_google."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.vit import ViT
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families.description import HALF, Description, Shapes, pair, preprocessing, real, refuse
from vision_jax.weights.families.transformers import (
    Key,
    activation,
    as_is,
    block_names,
    depth,
    patch,
    pictures,
    read_keys,
    write_head,
    write_keys,
)
from vision_jax.weights.mapping import TORCH, Names

# The keys that ViTConfig and ViTMAEConfig share.
ENCODER = {
    "patch_size": Key("patch_size", 16, patch),
    "width": Key("hidden_size", 768),
    "depth": Key("num_hidden_layers", 12, depth),
    "num_heads": Key("num_attention_heads", 12),
    "mlp_dim": Key("intermediate_size", 3072),
    "act": Key("hidden_act", "gelu", activation),
    "norm_eps": Key("layer_norm_eps", 1e-12, real),
}
KEYS = {**ENCODER, "qkv_bias": Key("qkv_bias", True, as_is)}


def names_transformers(
    prefix: str = "vit/", is_recent: bool = False, decoder: str = "decoder_layers/", is_recent_decoder: bool = False
) -> Names:
    """Names of the encoder that ViT and MAE share, and of MAE's decoder.

    prefix: of the encoder's names, if it is part of a model with a head or decoder. is_recent: see `block_names`.
    decoder: the prefix of the decoder's blocks.
    """
    blocks = f"{prefix}layers/" if is_recent else f"{prefix}encoder/layer/"
    rules = (
        (r"^(cls_token)", rf"{prefix}embeddings/\1"),
        (r"^pos_embed", f"{prefix}embeddings/position_embeddings"),
        (r"^patch_embed", f"{prefix}embeddings/patch_embeddings/projection"),
        (r"^norm(?=/)", f"{prefix}layernorm"),
        (r"^pre_logits", f"{prefix}pooler/dense"),
        (r"^head", "classifier"),
        *block_names(is_recent),
        *block_names(is_recent_decoder, where="decoder/"),
        (r"^blocks_", blocks),
        (r"^decoder/blocks_", f"decoder/{decoder}"),
        (r"^decoder/(embed|pred|norm)(?=/)", r"decoder/decoder_\1"),
        *TORCH,
    )
    return Names(rules, blocks=(blocks.replace("/", "."),), ignored=r"pooler\.|mask_token")


def names_of(model: ViT, image_size: tuple[int, int]) -> Names:
    """Names as in ViTForImageClassification, or without classes as in ViTModel."""
    return names_transformers("vit/" if model.num_classes else "")


def names_in(tensors: Mapping) -> Names:
    """The `names_transformers` that fit a file."""
    prefix = "vit/" if any(name.startswith("vit.") for name in tensors) else ""
    start = f"{prefix}layers/".replace("/", ".")
    # transformers 5 renames the encoder's layers, and so spoils the name under which it writes the decoder's.
    is_spoilt = any(name.startswith("decoder.decoder_encoder.layer.") for name in tensors)
    decoder = "decoder_encoder/layer/" if is_spoilt else "decoder_layers/"
    query = f"decoder/{decoder}0/attention/q_proj/weight".replace("/", ".")
    return names_transformers(prefix, any(name.startswith(start) for name in tensors), decoder, query in tensors)


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """ViTForImageClassification, or ViTModel: its features are the pooler's output, if the file has a pooler.

    representation_size=None in `given` leaves the pooler out, so that the class token is the feature.
    """
    fields, given, names = read_keys(config, KEYS), dict(given or {}), names_in(tensors)
    shapes = Shapes(tensors, names)
    classes = shapes.outputs("head") or 0
    size = None if classes or "representation_size" in given else shapes.outputs("pre_logits")
    if size and (act := config.get("pooler_act", "tanh")) != "tanh":
        raise ConfigError(
            f"config.json has pooler_act={act!r}, but only 'tanh' is supported; "
            "representation_size=None leaves the pooler out"
        )
    image_size = pair(given.pop("image_size", config.get("image_size", 224)))
    fields |= {"cls_token": True, "num_classes": classes, "representation_size": size, **given}
    return Description("vit", fields, image_size, preprocessing(HALF, "bilinear", "squash"), names)


def config_transformers(model: ViT, image_size: tuple[int, int]) -> dict[str, Any]:
    """config.json of ViTForImageClassification, or without classes of ViTModel.

    Raises ConfigError naming the model's field that transformers' ViT does not support.
    """
    refuse(
        model,
        "transformers' ViT",
        pool=("token",),
        stem=(None,),
        num_registers=(0,),
        posemb=("learn_1d", "learn_sincos2d", "sincos2d", "sincos2d_bv"),
        posemb_cls=(True,),
        patch_bias=(True,),
        pre_norm=(False,),
        layer_scale_init=(None,),
        norm_pooled=(False,),
        head_batch_norm=(False,),
        representation_size=(None,) if model.num_classes else (model.representation_size,),
    )
    config = {"model_type": "vit", **write_keys(model, KEYS), **pictures(image_size), "pooler_act": "tanh"}
    if not model.num_classes:
        config["pooler_output_size"] = model.representation_size or model.width
    return write_head(config, "ViT", model.num_classes)


def constants_transformers(model: ViT, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What transformers keeps in the file and we compute: fixed positions, by their names there."""
    name = f"{'vit.' if model.num_classes else ''}embeddings.position_embeddings"
    return fixed_positions(model, image_size, name)


def fixed_positions(model: ViT, image_size: tuple[int, int], name: str) -> dict[str, np.ndarray]:
    """{tensor name: fixed positions}; empty if the positions are learned, or there are none."""
    if "sincos2d" not in model.posemb or model.posemb.startswith("learn"):
        return {}
    kind = "big_vision" if model.posemb.endswith("_bv") else "mae"
    prefix = int(model.has_cls and model.posemb_cls)
    return {name: sincos2d(model.grid(image_size), model.width, kind, prefix)}
