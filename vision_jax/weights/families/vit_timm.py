"""ViT in timm's names, which facebookresearch's DeiT and MAE share.

timm's hybrids have other epsilons in their stem than Google's, which ours are: 1e-5 in GroupNorm for 1e-6, and 1e-8 under
the root of a standardised kernel's variance for 1e-5 beside it. The norms that follow take the second away, and features
of standardised kernels are large beside the first: outputs differ by about as much as rounding makes them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.layers import ACTIVATIONS, choose
from vision_jax.models.registry import create_model
from vision_jax.models.resnet import stem_size
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import grid_of
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families.description import (
    Description,
    LeftOpen,
    count_blocks,
    left_over,
    pair,
    preprocessing,
    refuse,
    section,
    shape_of,
    whole,
)
from vision_jax.weights.families.entries import conv, dense, norm
from vision_jax.weights.mapping import Entry

_POOLS = {"token": "token", "avg": "gap", "map": "map", "": "none"}
# What the names of architectures say and tensors do not; any other is a multiple of 64 wide with heads of 64.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
_TANH = re.compile(r"patch32_siglip|giantopt_\w*siglip|large_patch16_siglip_(gap_)?512|so400m_patch16_siglip")
_HEADS_OF = {"vit_base_patch16_gap_224": 16, "test_vit": 2}
_EPS = re.compile(r"_clip_|beit3")
_ROOTS = ("patch_embed.backbone.stem", "patch_embed.backbone")


def describe_timm(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """timm's VisionTransformer: config.json of a hub folder, or None for a bare file."""
    config, given = config or {}, dict(given or {})
    args, source = section(config, "model_args"), section(config, "pretrained_cfg") or config
    name = str(config.get("architecture", "")).partition(".")[0]
    if "_rpn_" in name:
        raise ConfigError(f"'{name}' normalises after its branches, which our ViT does not")
    if args.get("pool_include_prefix"):
        raise ConfigError("the pool_include_prefix=True of the file's model_args is not known here")
    sizes = [args.get("img_size"), (source.get("input_size") or [None])[1:]]
    fields, image_size = read_fields(tensors, given, [pair(size) for size in sizes if size])
    pool = args.get("global_pool", config.get("global_pool", _pool_of(tensors)))
    if not isinstance(pool, str) or pool not in _POOLS:
        raise ConfigError(f"the file's global_pool={pool!r} is none of {', '.join(map(repr, _POOLS))}")
    if pool == "map" and (fields["cls_token"] or fields["num_registers"]):
        raise ConfigError("timm's attention pooling leaves out cls and registers, which ours attends to")
    fields |= {"pool": _POOLS[pool], "norm_eps": 1e-5 if _EPS.search(name) else 1e-6}
    if "act" not in given:
        fields["act"] = _activation_of(name, args, fields["pre_norm"])
    if "num_heads" not in given:
        said = whole(args, "num_heads") if args.get("num_heads") else None
        fields["num_heads"] = said or _HEADS_OF.get(name) or heads_of(fields["width"], "num_heads")
    return _described({**fields, **given}, image_size, preprocessing_of(source), tensors)


def _described(fields: dict, image_size: tuple[int, int], preprocessing: dict, tensors: Mapping) -> Description:
    table = table_timm(create_model("vit", **fields))
    ignored = left_over(tensors, table, "blocks.", lambda name: name == "mask_token")
    return Description("vit", fields, image_size, preprocessing, table, ignored)


def read_fields(tensors: Mapping, given: dict, sizes: Iterable) -> tuple[dict[str, Any], tuple[int, int]]:
    """Fields that names and shapes show, and the image size, of `given` (where it is taken out), of `sizes` or square."""
    if "dist_token" in tensors:
        raise ConfigError("the file has 'dist_token': a distilled DeiT has two heads, which our ViT has not")
    stem = stem_of(tensors)
    if stem is None and any(name.startswith("patch_embed.backbone.") for name in tensors):
        raise ConfigError("the file's hybrid has another stem than Google's ResNet with group norm")
    width, _, *patch = shape_of(tensors, "patch_embed.proj.weight", 4)
    has_cls, registers = "cls_token" in tensors, shape_of(tensors, "reg_token", 3)[1] if "reg_token" in tensors else 0
    probe = "head.0.running_mean" in tensors
    fields = {
        "num_classes": outputs(tensors, "head.1" if probe else "head") or 0,
        "head_batch_norm": probe,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "width": width,
        "depth": count_blocks(tensors, "blocks."),
        "mlp_dim": shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        "stem": stem,
        "cls_token": has_cls,
        "num_registers": registers,
        "patch_bias": "patch_embed.proj.bias" in tensors,
        "pre_norm": "norm_pre.weight" in tensors,
        "norm_pooled": "fc_norm.weight" in tensors,
        "layer_scale_init": 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "representation_size": outputs(tensors, "pre_logits.fc"),
    }
    size = given.pop("image_size", None)
    if "pos_embed" not in tensors:
        size = size or next(iter(sizes), None)
        if size is None:
            raise LeftOpen("image_size", "the file has no positions, which would show its image size; pass image_size")
        return {**fields, "posemb": "none"}, pair(size)
    rows = shape_of(tensors, "pos_embed", 3)[1]
    sizes = list(sizes) if size is None else [pair(size)]
    image_size, prefix = fit_positions(
        rows, tuple(patch), fields["stem"], (has_cls + registers, 0), sizes, size is not None
    )
    if prefix and registers:
        raise ConfigError("the file has positions of registers, which our ViT has not")
    return {**fields, "posemb_cls": bool(prefix)}, image_size


def outputs(tensors: Mapping, name: str) -> int | None:
    """Of a Linear of the file, if it has it."""
    return shape_of(tensors, f"{name}.weight", 2)[0] if f"{name}.weight" in tensors else None


def fit_positions(
    rows: int,
    patch: tuple[int, int],
    stem: tuple[int, ...] | None,
    prefixes: Iterable[int],
    sizes: Iterable[tuple[int, int]] = (),
    is_certain: bool = False,
) -> tuple[tuple[int, int], int]:
    """The image size that a table of so many positions is for, and how many of them stand before the patches.

    Args:
        prefixes: numbers that there may be, the likeliest first.
        sizes: image sizes (height, width) to try; a square, if none fits.
        is_certain: one of `sizes` must fit.

    Raises:
        ConfigError: none does, or the positions are no square.
    """
    for size in sizes:
        rows_of, columns = grid_of(size if stem is None else stem_size(size, stem), patch)
        for prefix in prefixes:
            if rows == prefix + rows_of * columns:
                return size, prefix
    if is_certain:
        raise ConfigError(f"the file has {rows} positions, which do not fit image_size={next(iter(sizes))}")
    strides = [side if stem is None else 4 * 2 ** max(len(stem) - 1, 0) * side for side in patch]
    for prefix in prefixes:
        side = math.isqrt(max(rows - prefix, 0))
        if side and side * side == rows - prefix:
            return (side * strides[0], side * strides[1]), prefix
    raise LeftOpen(
        "image_size", f"the file's {rows} positions are those of no square image; pass image_size=(height, width)"
    )


def heads_of(width: int, field: str) -> int:
    """The number of heads of the published ViTs of that width. Raises ConfigError that asks for `field`."""
    if width in _HEADS or width % 64 == 0:
        return _HEADS.get(width, width // 64)
    raise LeftOpen(field, f"how many heads there are of width {width} cannot be seen in the file; pass {field}")


def stem_of(tensors: Mapping) -> tuple[int, ...] | None:
    """Bottlenecks in each stage of a hybrid's ResNet; None without one."""
    found = [
        re.match(r"patch_embed\.backbone\.stages\.(\d{1,9})\.blocks\.(\d+)\.conv1\.weight", name) for name in tensors
    ]
    stages = [int(match[1]) for match in found if match]
    if max(stages, default=0) > limits.MODEL_DEPTH:
        raise ConfigError(f"the file's ResNet has a stage of the number {max(stages)}")
    if not stages and not any(f"{root}.conv.weight" in tensors for root in _ROOTS):
        return None
    return tuple(stages.count(stage) for stage in range(max(stages, default=-1) + 1))


def _pool_of(tensors: Mapping) -> str:
    if "attn_pool.latent" in tensors:
        return "map"
    return "avg" if "fc_norm.weight" in tensors or "cls_token" not in tensors else "token"


def _activation_of(name: str, args: Mapping, pre_norm: bool) -> str:
    if act := args.get("act_layer"):
        return choose("act", act, ACTIVATIONS)  # names alike
    if not name and pre_norm:
        raise LeftOpen("act", "a bare file of CLIP's image tower does not show its activation; pass act (and norm_eps)")
    if "_quickgelu_" in name:
        return "quick_gelu"
    return "gelu_tanh" if _TANH.search(name) else "gelu"


def preprocessing_of(source: Mapping) -> dict[str, Any]:
    """Ours of a pretrained_cfg; {} where it does not say, or pads or crops a picture as none is here."""
    crop_mode, crop = source.get("crop_mode") or "center", source.get("crop_pct") or 0.875
    if not source.get("mean") or crop_mode not in ("center", "squash") or (crop_mode == "squash" and crop != 1.0):
        return {}
    interpolation = source.get("interpolation") if source.get("interpolation") == "bilinear" else "bicubic"
    resize = "squash" if crop_mode == "squash" else "crop"
    mean_std = {key: source.get(key) for key in ("mean", "std")}
    return preprocessing(mean_std, interpolation, resize, crop)


def preprocessing_for(ours: Mapping | None) -> dict[str, Any]:
    """What pretrained_cfg says of it."""
    if not ours:
        return {}
    is_squashed = ours["eval_resize"] == "squash"
    return {
        **{key: ours[key] for key in ("mean", "std", "interpolation")},
        "crop_pct": 1.0 if is_squashed else ours["eval_crop"],
        "crop_mode": "squash" if is_squashed else "center",
    }


def table_timm(model: ViT) -> list[Entry]:
    table = conv("patch_embed", "patch_embed.proj", model.patch_bias)
    for has, ours, theirs in (
        (model.has_cls, "cls_token", "cls_token"),
        (model.num_registers, "registers", "reg_token"),
        (model.posemb.startswith("learn"), "pos_embed", "pos_embed"),
    ):
        table += [Entry(ours, theirs)] if has else []
    if model.stem is not None:
        table += _stem_table(model.stem)
    if model.pre_norm:
        table += norm("norm_pre", "norm_pre")
    for i in range(model.depth):
        table += block_table(f"blocks_{i}", f"blocks.{i}", model.qkv_bias, model.layer_scale_init is not None)
    table += norm("fc_norm", "fc_norm") if model.norm_pooled else norm("norm", "norm")
    if model.pool == "map":
        table += [Entry("map_head/probe", "attn_pool.latent"), *dense("map_head/attn/query", "attn_pool.q")]
        for i, part in enumerate(("key", "value")):
            table += dense(f"map_head/attn/{part}", "attn_pool.kv", part=(i, 2))
        table += dense("map_head/attn/out", "attn_pool.proj") + norm("map_head/norm", "attn_pool.norm")
        table += _mlp_table("map_head/mlp", "attn_pool.mlp")
    if model.representation_size:
        table += dense("pre_logits", "pre_logits.fc")
    if model.head_batch_norm:  # as MAE's linear probe names it
        statistics = [("head_norm/mean", "head.0.running_mean"), ("head_norm/var", "head.0.running_var")]
        return table + [Entry(*names, collection="batch_stats") for names in statistics] + dense("head", "head.1")
    return table + (dense("head", "head") if model.num_classes else [])


def block_table(ours: str, theirs: str, qkv_bias: bool = True, layer_scale: bool = False) -> list[Entry]:
    table = norm(f"{ours}/norm1", f"{theirs}.norm1") + norm(f"{ours}/norm2", f"{theirs}.norm2")
    for i, part in enumerate(("query", "key", "value")):
        table += dense(f"{ours}/attn/{part}", f"{theirs}.attn.qkv", qkv_bias, (i, 3))
    table += dense(f"{ours}/attn/out", f"{theirs}.attn.proj") + _mlp_table(f"{ours}/mlp", f"{theirs}.mlp")
    return table + (
        [Entry(f"{ours}/{name}", f"{theirs}.{name}.gamma") for name in ("ls1", "ls2")] if layer_scale else []
    )


def _mlp_table(ours: str, theirs: str) -> list[Entry]:
    return dense(f"{ours}/fc1", f"{theirs}.fc1") + dense(f"{ours}/fc2", f"{theirs}.fc2")


def _stem_table(stem: tuple[int, ...]) -> list[Entry]:
    """timm keeps the root in `stem` where stages follow it."""
    root = _ROOTS[0] if stem else _ROOTS[1]
    table = conv("backbone/conv_root", f"{root}.conv", bias=False) + norm("backbone/gn_root", f"{root}.norm")
    for s, count in enumerate(stem):
        for u in range(count):
            ours, theirs = f"backbone/stages_{s}/units_{u}", f"patch_embed.backbone.stages.{s}.blocks.{u}"
            names = {
                f"{kind}{i}": f"{their}{i}" for i in (1, 2, 3) for kind, their in (("conv", "conv"), ("gn", "norm"))
            }
            if u == 0:  # the first changes the number of features
                names |= {"conv_proj": "downsample.conv", "gn_proj": "downsample.norm"}
            for our, their in names.items():
                name = f"{ours}/{our}", f"{theirs}.{their}"
                table += norm(*name) if our.startswith("gn") else conv(*name, bias=False)
    return table


# An architecture of timm with the same stem, or norms' epsilon; model_args say the rest.
_STEMS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
_PLAIN = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}


def config_timm(model: ViT, image_size: tuple[int, int], preprocessing: Mapping | None = None) -> dict[str, Any]:
    """config.json of a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    Raises ConfigError naming the field of a model that timm's VisionTransformer cannot be.
    """
    refuse(
        model,
        "timm's VisionTransformer",
        {
            "stem": (None, *_STEMS),
            "posemb": ("none", "learn_1d", "learn_sincos2d", "sincos2d", "sincos2d_bv"),
            "representation_size": (None,),
            "head_batch_norm": (False,),
            "norm_eps": tuple(_PLAIN) if model.stem is None else (1e-6,),
            "patch_bias": (not model.pre_norm,),
            "posemb_cls": (False,) if model.num_registers and model.posemb != "none" else (True, False),
            "num_prefix": (0,) if model.pool == "map" else (model.num_prefix,),
        },
    )
    ratio = model.mlp_dim / model.width
    args = {
        "img_size": list(image_size),
        "patch_size": model.patch_size if isinstance(model.patch_size, int) else list(model.patch_size),
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "mlp_ratio": ratio if int(model.width * ratio) == model.mlp_dim else (model.mlp_dim + 0.5) / model.width,
        "qkv_bias": model.qkv_bias,
        "init_values": model.layer_scale_init,
        "class_token": model.has_cls,
        "reg_tokens": model.num_registers,
        "no_embed_class": not (model.has_cls and model.posemb_cls),
        "pos_embed": "none" if model.posemb == "none" else "learn",
        "pre_norm": model.pre_norm,
        "global_pool": next(theirs for theirs, ours in _POOLS.items() if ours == model.pool),
        "fc_norm": model.norm_pooled,
        "act_layer": model.act,
    }
    source = {"input_size": [3, *image_size], "num_classes": model.num_classes, "classifier": "head"}
    source |= preprocessing_for(preprocessing)
    return {
        "architecture": _PLAIN[model.norm_eps] if model.stem is None else _STEMS[model.stem],
        "num_classes": model.num_classes,
        "num_features": model.width,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": source,
    }


def constants_timm(model: ViT, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What timm keeps in the file and we compute: fixed positions, by their name there."""
    if model.posemb == "none" or model.posemb.startswith("learn"):
        return {}
    kind = "big_vision" if model.posemb.endswith("_bv") else "mae"
    prefix = int(model.has_cls and model.posemb_cls)
    return {"pos_embed": sincos2d(model.grid(image_size), model.width, kind, prefix)}
