"""MAE in transformers (model_type "vit_mae") and in facebookresearch's .pth.

A file with a decoder is an MAE; of it, the encoder alone comes as a ViT with name="vit" among what is given. A file
without one, and a fine-tuned model, is a ViT whose positions are learned ones that begin with the file's.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.mae import MAE
from vision_jax.models.registry import create_model
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair, grid_of
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families import vit, vit_timm
from vision_jax.weights.families.description import (
    IMAGENET,
    Description,
    LeftOpen,
    count_blocks,
    left_over,
    pair,
    preprocessing,
    read_config,
    shape_of,
    whole,
)
from vision_jax.weights.families.entries import dense, norm
from vision_jax.weights.mapping import Entry
from vision_jax.weights.tensors import Tensor

# ViTMAEConfig's defaults beside those of ViTConfig.
_DEFAULTS = {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
_DECODER_WIDTH = 512  # of all published decoders, with 16 heads
_BESIDE_ENCODER = ("decoder_", "mask_token", "head.0.num_batches_tracked")
# transformers 5 writes its layers under a name that its own renaming of the encoder's has spoilt.
_DECODER_BLOCKS = ("decoder.decoder_layers.", "decoder.decoder_encoder.layer.")


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """ViTMAEForPreTraining, or ViTMAEModel."""
    config, given = read_config(config, {**_DEFAULTS, **vit.DEFAULTS}), dict(given or {})
    image_size, name = pair(given.pop("image_size", config["image_size"])), given.pop("name", "mae")
    prefix = vit.prefix_of(tensors)
    blocks, fields = vit.blocks_in(tensors, prefix), vit.encoder_fields(config)
    shown = preprocessing(IMAGENET, "bilinear", "squash")
    if "decoder.mask_token" not in tensors or name == "vit":
        fields = {**fields, "num_classes": 0, "cls_token": True, "posemb": "learn_sincos2d", **given}
        table = vit.table_transformers(create_model("vit", **fields), prefix, blocks)
        ignored = left_over(tensors, table, blocks, lambda name: name.startswith("decoder."))
        return Description("vit", fields, image_size, shown, table, ignored)
    if not fields.pop("qkv_bias"):
        raise ConfigError("config.json has qkv_bias=False, which our MAE cannot; name='vit' takes the encoder alone")
    fields |= {
        "decoder_width": whole(config, "decoder_hidden_size"),
        "decoder_depth": whole(config, "decoder_num_hidden_layers", limits.MODEL_DEPTH, least=0),
        "decoder_num_heads": whole(config, "decoder_num_attention_heads"),
        "decoder_mlp_dim": whole(config, "decoder_intermediate_size"),
        "mask_ratio": config["mask_ratio"],
        "norm_pix_loss": config["norm_pix_loss"],
    }
    fields |= given
    positions = {f"{prefix}embeddings.position_embeddings": "width", "decoder.decoder_pos_embed": "decoder_width"}
    check_positions(tensors, positions, fields, image_size)
    decoder = _DECODER_BLOCKS[any(name.startswith(_DECODER_BLOCKS[1]) for name in tensors)]
    is_recent = f"{decoder}0.attention.q_proj.weight" in tensors
    table = table_transformers(create_model("mae", **fields), prefix, blocks, decoder, is_recent)
    ignored = left_over(tensors, table, blocks, lambda name: name in positions)
    return Description("mae", fields, image_size, shown, table, ignored)


def table_transformers(
    model: MAE,
    prefix: str = "vit.",
    blocks: str = "vit.encoder.layer.",
    decoder: str = _DECODER_BLOCKS[0],
    is_recent: bool = False,
) -> list[Entry]:
    """Names as in facebook/vit-mae-base; the others are those of other files (is_recent: of the decoder's blocks)."""
    table = vit.encoder_table(model, prefix, blocks, has_positions=False)
    table.append(Entry("decoder/mask_token", "decoder.mask_token"))
    for i in range(model.decoder_depth):
        table += vit.block_table(f"decoder/blocks_{i}", f"{decoder}{i}", True, is_recent)
    table += dense("decoder/embed", "decoder.decoder_embed") + dense("decoder/pred", "decoder.decoder_pred")
    return table + norm("decoder/norm", "decoder.decoder_norm")


def encoder_of(model: MAE) -> ViT:
    """The encoder as a ViT of its own, which takes the parameters at the top of an MAE's."""
    shared = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "pool", "act", "norm_eps")
    return ViT(0, cls_token=True, posemb="sincos2d", **{field: getattr(model, field) for field in shared})


def config_transformers(model: MAE, image_size: tuple[int, int]) -> dict[str, Any]:
    """config.json of ViTMAEForPreTraining, which knows squares alone. Raises ConfigError for others."""
    if image_size[0] != image_size[1] or as_pair(model.patch_size)[0] != as_pair(model.patch_size)[1]:
        raise ConfigError(f"transformers' MAE has square images and patches, not {image_size} and {model.patch_size}")
    return {
        "model_type": "vit_mae",
        "architectures": ["ViTMAEForPreTraining"],
        **vit.encoder_config(model, image_size),
        "patch_size": as_pair(model.patch_size)[0],
        "decoder_hidden_size": model.decoder_width,
        "decoder_num_hidden_layers": model.decoder_depth,
        "decoder_num_attention_heads": model.decoder_num_heads,
        "decoder_intermediate_size": model.decoder_mlp_dim,
        "mask_ratio": model.mask_ratio,
        "norm_pix_loss": model.norm_pix_loss,
    }


def constants_transformers(model: MAE, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The fixed positions that transformers keeps in the file."""
    return _positions(model, image_size, ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"))


def describe_official(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """facebookresearch's pre-trained encoder, encoder with decoder, fine-tuned classifier or linear probe. No config.

    With a decoder, whether the loss normalises pixels is not in the tensors: where the file has no arguments of its
    training, norm_pix_loss must be given.
    """
    given = dict(given or {})
    name = given.pop("name", "mae")
    fields, image_size = vit_timm.read_fields(tensors, given, ())
    # As its evaluation does: a centre crop up to 224 pixels, the whole picture above.
    shown = preprocessing(IMAGENET, "bicubic", crop=0.875 if max(image_size) <= 224 else 1.0)
    fields |= {"act": "gelu", "norm_eps": 1e-6}
    fields["num_heads"] = given.get("num_heads") or vit_timm.heads_of(fields["width"], "num_heads")
    if "mask_token" not in tensors or name == "vit":
        fields |= {"pool": "gap" if fields["norm_pooled"] else "token", "posemb": "learn_sincos2d", **given}
        table = vit_timm.table_timm(create_model("vit", **fields))
        ignored = left_over(tensors, table, "blocks.", lambda name: name.startswith(_BESIDE_ENCODER))
        return Description("vit", fields, image_size, shown, table, ignored)
    fields = {
        name: fields[name] for name in ("patch_size", "width", "depth", "num_heads", "mlp_dim", "act", "norm_eps")
    }
    fields |= _decoder_fields(tensors, given) | given
    known = getattr(tensors, "metadata", {}).get("args.norm_pix_loss")
    fields = fields if known is None else {"norm_pix_loss": known, **fields}
    if "norm_pix_loss" not in fields:
        raise LeftOpen(
            "norm_pix_loss", "the file does not say whether its decoder predicts normalised pixels; pass norm_pix_loss"
        )
    positions = {"pos_embed": "width", "decoder_pos_embed": "decoder_width"}
    check_positions(tensors, positions, fields, image_size)
    table = table_official(create_model("mae", **fields))
    ignored = left_over(tensors, table, ("blocks.", "decoder_"), lambda name: name in positions)
    return Description("mae", fields, image_size, shown, table, ignored)


def _decoder_fields(tensors: Mapping, given: Mapping) -> dict[str, Any]:
    width = shape_of(tensors, "mask_token", 3)[-1]
    if "decoder_num_heads" not in given and width != _DECODER_WIDTH:
        raise LeftOpen(
            "decoder_num_heads",
            f"how many heads there are of decoder width {width} cannot be seen in the file; pass decoder_num_heads",
        )
    return {
        "decoder_width": width,
        "decoder_depth": count_blocks(tensors, "decoder_blocks."),
        "decoder_num_heads": 16,
        "decoder_mlp_dim": shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", 2)[0],
    }


def table_official(model: MAE) -> list[Entry]:
    """Names of the file with decoder."""
    table = vit_timm.table_timm(ViT(num_classes=0, depth=model.depth, posemb="sincos2d"))
    table.append(Entry("decoder/mask_token", "mask_token"))
    for i in range(model.decoder_depth):
        table += vit_timm.block_table(f"decoder/blocks_{i}", f"decoder_blocks.{i}")
    table += dense("decoder/embed", "decoder_embed") + dense("decoder/pred", "decoder_pred")
    return table + norm("decoder/norm", "decoder_norm")


def constants_official(model: MAE, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The fixed positions that facebookresearch's code keeps in the file."""
    return _positions(model, image_size, ("pos_embed", "decoder_pos_embed"))


def check_positions(
    tensors: Mapping, positions: Mapping[str, str], fields: Mapping, image_size: tuple[int, int]
) -> None:
    """Raises ConfigError unless the tables of the file, name -> field with its width, are those that our MAE computes."""
    grid = grid_of(image_size, as_pair(fields["patch_size"]))
    for name, field in positions.items():
        if name not in tensors:
            raise ConfigError(f"the file lacks '{name}'")
        if not _is_fixed(tensors[name], grid, fields[field]):
            raise ConfigError(
                f"'{name}' is not MAE's fixed table of sines and cosines for image_size={image_size}, and our MAE has no "
                "other; name='vit' takes the encoder alone, with the positions of the file"
            )


def is_official(tensors: Mapping) -> bool:
    """Whether a bare file in timm's names is a pre-trained MAE: with a decoder, or with MAE's fixed positions."""
    if "decoder_pos_embed" in tensors or "pos_embed" not in tensors:
        return "decoder_pos_embed" in tensors
    _, rows, width = shape_of(tensors, "pos_embed", 3)
    side = math.isqrt(max(rows - 1, 0))
    return width % 4 == 0 and _is_fixed(tensors["pos_embed"], (side, side), width)


def _is_fixed(tensor: Tensor, grid: tuple[int, int], width: int) -> bool:
    if tensor.shape != (1, 1 + grid[0] * grid[1], width):
        return False
    want = sincos2d(grid, width, prefix=1)
    # Loose enough for bfloat16, and less than what other conventions of such tables differ by.
    return np.abs(tensor.read().astype(np.float32) - want).max() < 1e-2


def _positions(model: MAE, image_size: tuple[int, int], names: tuple[str, str]) -> dict[str, np.ndarray]:
    grid, widths = grid_of(image_size, as_pair(model.patch_size)), (model.width, model.decoder_width)
    return {name: sincos2d(grid, width, prefix=1) for name, width in zip(names, widths, strict=True)}
