"""ViT in timm's names, which facebookresearch's DeiT and MAE share.

The stems of timm's hybrids have other epsilons than Google's, which ours share: 1e-5 in GroupNorm rather than 1e-6, and
for a standardised kernel 1e-8 under the root of the variance rather than 1e-5 outside it. The following norms cancel the
second, and features of standardised kernels are large next to the first: outputs differ by about a rounding error.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.layers import ACTIVATIONS, choose
from vision_jax.models.vit import ViT
from vision_jax.weights.families.description import (
    Description,
    LeftOpen,
    Shapes,
    heads_of,
    pair,
    preprocessing,
    ratio_of,
    refuse,
    section,
    whole,
)
from vision_jax.weights.families.vit import fixed_positions
from vision_jax.weights.families.vit_shapes import classifier_fields, read_positions
from vision_jax.weights.mapping import TORCH, Names

_POOLS = {"token": "token", "avg": "gap", "map": "map", "": "none"}
# Heads by width, which only the architecture's name tells; any other width is a multiple of 64, with heads 64 wide.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
_TANH = re.compile(r"patch32_siglip|giantopt_\w*siglip|large_patch16_siglip_(gap_)?512|so400m_patch16_siglip")
_HEADS_OF = {"vit_base_patch16_gap_224": 16, "test_vit": 2}
_EPS = re.compile(r"_clip_|beit3")
_ROOTS = ("patch_embed/backbone/stem", "patch_embed/backbone")
# Rules for blocks, with query, key and value in one tensor, and for attention pooling.
BLOCKS = (
    (r"blocks_", "blocks/"),
    (r"(blocks/.*attn)/(query|key|value)", r"\1/qkv"),
    (r"(blocks/.*attn)/out", r"\1/proj"),
    (r"/(ls\d)$", r"/\1/gamma"),
)
_MAP_HEAD = (
    (r"^map_head/probe", "attn_pool/latent"),
    (r"^map_head/attn/query", "attn_pool/q"),
    (r"^map_head/attn/(key|value)", "attn_pool/kv"),
    (r"^map_head/attn/out", "attn_pool/proj"),
    (r"^map_head", "attn_pool"),
)
_STEM = (
    (r"^backbone/stages_(\d+)/units_", r"patch_embed/backbone/stages/\1/blocks/"),
    (r"/(conv|gn)_proj", r"/downsample/\1"),
    (r"/gn", "/norm"),
)


def names_timm(root: str = _ROOTS[0], has_probe: bool = False) -> Names:
    """Names of ViT, and of MAE's decoder as facebookresearch has them.

    root: the prefix of the start of a hybrid's stem. has_probe: the head is MAE's linear probe.
    """
    rules = (
        (r"^patch_embed", "patch_embed/proj"),
        (r"^registers", "reg_token"),
        (r"^pre_logits", "pre_logits/fc"),
        (r"^backbone/(conv|gn)_root", rf"{root}/\1"),
        *_STEM,
        *_MAP_HEAD,
        *([(r"^head/", "head/1/"), (r"^head_norm/", "head/0/running_")] if has_probe else []),
        (r"^decoder/mask_token", "mask_token"),
        (r"^decoder/", "decoder_"),
        *BLOCKS,
        *TORCH,
    )
    return Names(rules, blocks=("blocks.", "patch_embed.backbone."), ignored="^mask_token$")


def names_of(model: ViT, image_size: tuple[int, int]) -> Names:
    """Names as timm writes them; it keeps the root of a stem in `stem` if stages follow it."""
    return names_timm(_ROOTS[model.stem == ()], model.head_batch_norm)


def names_in(tensors: Mapping) -> Names:
    """The `names_timm` that fit a file."""
    is_root_alone = "patch_embed.backbone.conv.weight" in tensors
    return names_timm(_ROOTS[is_root_alone], "head.0.running_mean" in tensors)


def describe_timm(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """timm's VisionTransformer: config.json of a hub folder, or None for a bare file."""
    config, given = config or {}, dict(given or {})
    args, source = section(config, "model_args"), section(config, "pretrained_cfg") or config
    name = str(config.get("architecture", "")).partition(".")[0]
    if "_rpn_" in name:
        raise ConfigError(f"'{name}' normalises after its branches, which our ViT does not")
    if args.get("pool_include_prefix"):
        raise ConfigError("the pool_include_prefix=True of the file's model_args is not supported")
    sizes = [args.get("img_size"), (source.get("input_size") or [None])[1:]]
    names = names_in(tensors)
    fields, image_size = read_fields(Shapes(tensors, names), given, [pair(size) for size in sizes if size])
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
        fields["num_heads"] = said or _HEADS_OF.get(name) or heads_of_timm(fields["width"])
    return Description("vit", fields | given, image_size, preprocessing_of(source), names)


def read_fields(shapes: Shapes, given: dict, sizes: Iterable) -> tuple[dict[str, Any], tuple[int, int]]:
    """Fields from names and shapes, and the image size, from `given` (and removed there), from `sizes`, or square."""
    if "dist_token" in shapes.tensors:
        raise ConfigError("the file has 'dist_token': a distilled DeiT has two heads, which our ViT has not")
    fields = classifier_fields(shapes)
    if fields["stem"] is None and any(name.startswith("patch_embed.backbone.") for name in shapes.tensors):
        raise ConfigError("the file's hybrid has another stem than Google's ResNet with group norm")
    fields |= {
        "head_batch_norm": shapes.has("head_norm/mean"),
        "norm_pooled": shapes.has("fc_norm/scale"),
        "layer_scale_init": 1e-5 if shapes.has("blocks_0/ls1") else None,
        "qkv_bias": shapes.has("blocks_0/attn/query/bias"),
    }
    return fields, read_positions(shapes, fields, given, sizes, {"posemb": "none"})


def heads_of_timm(width: int) -> int:
    """The number of heads of published ViTs of that width. Raises ConfigError asking for it if the width does not tell."""
    return _HEADS.get(width) or heads_of(width, "num_heads")


def _pool_of(tensors: Mapping) -> str:
    if "attn_pool.latent" in tensors:
        return "map"
    return "avg" if "fc_norm.weight" in tensors or "cls_token" not in tensors else "token"


def _activation_of(name: str, args: Mapping, pre_norm: bool) -> str:
    if act := args.get("act_layer"):
        return choose("act", act, ACTIVATIONS)  # same names as ours
    if not name and pre_norm:
        raise LeftOpen("act", "a bare file of CLIP's image tower does not show its activation; pass act (and norm_eps)")
    if "_quickgelu_" in name:
        return "quick_gelu"
    return "gelu_tanh" if _TANH.search(name) else "gelu"


def preprocessing_of(source: Mapping) -> dict[str, Any]:
    """Our preprocessing from a pretrained_cfg; {} if it does not say, or its padding or cropping is not supported."""
    crop_mode, crop = source.get("crop_mode") or "center", source.get("crop_pct") or 0.875
    if not source.get("mean") or crop_mode not in ("center", "squash") or (crop_mode == "squash" and crop != 1.0):
        return {}
    interpolation = source.get("interpolation") if source.get("interpolation") == "bilinear" else "bicubic"
    resize = "squash" if crop_mode == "squash" else "crop"
    mean_std = {key: source.get(key) for key in ("mean", "std")}
    return preprocessing(mean_std, interpolation, resize, crop)


def preprocessing_for(ours: Mapping | None) -> dict[str, Any]:
    """The entries of pretrained_cfg for our preprocessing."""
    if not ours:
        return {}
    is_squashed = ours["eval_resize"] == "squash"
    return {
        **{key: ours[key] for key in ("mean", "std", "interpolation")},
        "crop_pct": 1.0 if is_squashed else ours["eval_crop"],
        "crop_mode": "squash" if is_squashed else "center",
    }


# A timm architecture with the same stem, or the same epsilon in its norms; model_args hold the rest.
_STEMS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
_PLAIN = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}


def config_timm(model: ViT, image_size: tuple[int, int], preprocessing: Mapping | None = None) -> dict[str, Any]:
    """config.json of a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    Raises ConfigError naming the model's field that timm's VisionTransformer does not support.
    """
    refuse(
        model,
        "timm's VisionTransformer",
        stem=(None, *_STEMS),
        posemb=("none", "learn_1d", "learn_sincos2d", "sincos2d", "sincos2d_bv"),
        representation_size=(None,),
        head_batch_norm=(False,),
        norm_eps=tuple(_PLAIN) if model.stem is None else (1e-6,),
        patch_bias=(not model.pre_norm,),
        posemb_cls=(False,) if model.num_registers and model.posemb != "none" else (True, False),
        num_prefix=(0,) if model.pool == "map" else (model.num_prefix,),
    )
    args = {
        "img_size": list(image_size),
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "mlp_ratio": ratio_of(model.width, model.mlp_dim),
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
    return fixed_positions(model, image_size, "pos_embed")
