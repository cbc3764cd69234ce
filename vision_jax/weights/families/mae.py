"""MAE in transformers (model_type "vit_mae") and in facebookresearch's .pth.

A file with a decoder is an MAE; name="vit" among what is given loads its encoder alone, as a ViT. A file without one,
or a fine-tuned model, is a ViT whose learned positions start from the file's.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.mae import MAE
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair, grid_of
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families import vit, vit_timm
from vision_jax.weights.families.description import IMAGENET, Description, LeftOpen, Shapes, pair, preprocessing
from vision_jax.weights.families.transformers import Key, as_is, depth, pictures, read_keys, write_keys
from vision_jax.weights.mapping import Names
from vision_jax.weights.tensors import Tensor

DECODER = {
    "decoder_width": Key("decoder_hidden_size", 512),
    "decoder_depth": Key("decoder_num_hidden_layers", 8, depth),
    "decoder_num_heads": Key("decoder_num_attention_heads", 16),
    "decoder_mlp_dim": Key("decoder_intermediate_size", 2048),
    "mask_ratio": Key("mask_ratio", 0.75, as_is),
    "norm_pix_loss": Key("norm_pix_loss", False, as_is),
}
_OFFICIAL_POSITIONS = ("pos_embed", "decoder_pos_embed")


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """ViTMAEForPreTraining, or ViTMAEModel."""
    fields, given, names = read_keys(config, vit.KEYS), dict(given or {}), vit.names_in(tensors)
    image_size, name = pair(given.pop("image_size", config.get("image_size", 224))), given.pop("name", "mae")
    shown = preprocessing(IMAGENET, "bilinear", "squash")
    if "decoder.mask_token" not in tensors or name == "vit":
        fields |= {"num_classes": 0, "cls_token": True, "posemb": "learn_sincos2d", **given}
        return Description("vit", fields, image_size, shown, names._replace(ignored=r"^decoder\."))
    if not fields.pop("qkv_bias"):
        raise ConfigError("config.json has qkv_bias=False, which our MAE cannot; name='vit' takes the encoder alone")
    fields |= read_keys(config, DECODER) | given
    positions = names.of("pos_embed"), "decoder.decoder_pos_embed"
    check_positions(tensors, positions, fields, image_size)
    return Description("mae", fields, image_size, shown, names._replace(ignored=_any_of(positions)))


def names_of(model: MAE, image_size: tuple[int, int]) -> Names:
    """Names as in facebook/vit-mae-base."""
    return vit.names_transformers()


def encoder_of(model: MAE) -> ViT:
    """The encoder as a separate ViT; its parameters are the top-level ones of the MAE."""
    shared = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "pool", "act", "norm_eps")
    return ViT(0, cls_token=True, posemb="sincos2d", **{field: getattr(model, field) for field in shared})


def config_transformers(model: MAE, image_size: tuple[int, int]) -> dict[str, Any]:
    """config.json of ViTMAEForPreTraining, which supports only square images. Raises ConfigError for others."""
    patch = as_pair(model.patch_size)
    if image_size[0] != image_size[1] or patch[0] != patch[1]:
        raise ConfigError(f"transformers' MAE has square images and patches, not {image_size} and {model.patch_size}")
    return {
        "model_type": "vit_mae",
        "architectures": ["ViTMAEForPreTraining"],
        **write_keys(model, vit.ENCODER | DECODER),
        **pictures(image_size),
        "patch_size": patch[0],
        "qkv_bias": True,
    }


def constants_transformers(model: MAE, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The fixed positions that transformers keeps in the file."""
    return _positions(model, image_size, ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"))


def describe_official(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """facebookresearch's pre-trained encoder, encoder with decoder, fine-tuned classifier or linear probe. No config.

    The tensors do not show whether a decoder's loss normalises pixels: if the file lacks its training arguments,
    norm_pix_loss must be given.
    """
    given, names = dict(given or {}), vit_timm.names_in(tensors)
    name = given.pop("name", "mae")
    fields, image_size = vit_timm.read_fields(Shapes(tensors, names), given, ())
    # As in its evaluation: a centre crop up to 224 pixels, the whole picture above that.
    shown = preprocessing(IMAGENET, "bicubic", crop=0.875 if max(image_size) <= 224 else 1.0)
    fields |= {"act": "gelu", "norm_eps": 1e-6}
    fields["num_heads"] = given.get("num_heads") or vit_timm.heads_of_timm(fields["width"])
    if "mask_token" not in tensors or name == "vit":
        fields |= {"pool": "gap" if fields["norm_pooled"] else "token", "posemb": "learn_sincos2d", **given}
        names = names._replace(ignored=r"^(decoder_|mask_token|head\.0\.num_batches_tracked)")
        return Description("vit", fields, image_size, shown, names)
    fields = {field: fields[field] for field in vit.ENCODER} | _decoder_fields(Shapes(tensors, names), given)
    if (known := getattr(tensors, "metadata", {}).get("args.norm_pix_loss")) is not None:
        fields["norm_pix_loss"] = known
    fields |= given
    if "norm_pix_loss" not in fields:
        raise LeftOpen(
            "norm_pix_loss", "the file does not say whether its decoder predicts normalised pixels; pass norm_pix_loss"
        )
    check_positions(tensors, _OFFICIAL_POSITIONS, fields, image_size)
    names = names._replace(blocks=(*names.blocks, "decoder_"), ignored=_any_of(_OFFICIAL_POSITIONS))
    return Description("mae", fields, image_size, shown, names)


def _decoder_fields(shapes: Shapes, given: Mapping) -> dict[str, Any]:
    width = shapes.of("decoder/mask_token", 3)[-1]
    # All published decoders have 16 heads and are 512 wide.
    heads = given.get("decoder_num_heads") or (16 if width == 512 else None)
    if heads is None:
        raise LeftOpen(
            "decoder_num_heads",
            f"how many heads there are of decoder width {width} cannot be seen in the file; pass decoder_num_heads",
        )
    return {
        "decoder_width": width,
        "decoder_depth": shapes.count("decoder/blocks_"),
        "decoder_num_heads": heads,
        "decoder_mlp_dim": shapes.of("decoder/blocks_0/mlp/fc1/kernel", 2)[1],
    }


def constants_official(model: MAE, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The fixed positions that facebookresearch's code keeps in the file."""
    return _positions(model, image_size, _OFFICIAL_POSITIONS)


def check_positions(tensors: Mapping, names: tuple[str, str], fields: Mapping, image_size: tuple[int, int]) -> None:
    """Raises ConfigError unless the file's encoder and decoder position tables are those that our MAE computes."""
    grid = grid_of(image_size, as_pair(fields["patch_size"]))
    for name, width in zip(names, (fields["width"], fields["decoder_width"]), strict=True):
        if name not in tensors:
            raise ConfigError(f"the file lacks '{name}'")
        if not _is_fixed(tensors[name], grid, width):
            raise ConfigError(
                f"'{name}' is not MAE's fixed table of sines and cosines for image_size={image_size}, and our MAE has no "
                "other; name='vit' takes the encoder alone, with the positions of the file"
            )


def _any_of(names: tuple[str, ...]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"


def is_official(tensors: Mapping) -> bool:
    """Whether a bare file in timm's names is a pre-trained MAE: with a decoder, or with MAE's fixed positions."""
    if "decoder_pos_embed" in tensors or "pos_embed" not in tensors:
        return "decoder_pos_embed" in tensors
    _, rows, width = Shapes(tensors, vit_timm.names_timm()).of("pos_embed", 3)
    side = math.isqrt(max(rows - 1, 0))
    return width % 4 == 0 and _is_fixed(tensors["pos_embed"], (side, side), width)


def _is_fixed(tensor: Tensor, grid: tuple[int, int], width: int) -> bool:
    if tensor.shape != (1, 1 + grid[0] * grid[1], width):
        return False
    want = sincos2d(grid, width, prefix=1)
    # Loose enough for bfloat16, yet tighter than the differences between conventions for such tables.
    return np.abs(tensor.read().astype(np.float32) - want).max() < 1e-2


def _positions(model: MAE, image_size: tuple[int, int], names: tuple[str, str]) -> dict[str, np.ndarray]:
    grid, widths = grid_of(image_size, as_pair(model.patch_size)), (model.width, model.decoder_width)
    return {name: sincos2d(grid, width, prefix=1) for name, width in zip(names, widths, strict=True)}
