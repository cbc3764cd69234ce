"""Swin and SwinV2 in the names of microsoft/Swin-Transformer ("official"), and in timm's, which differ little.

In timm the layer that halves the map is at the start of a stage, and the head is `head.fc`.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.swin import Swin
from vision_jax.models.window_attention import TABLE
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.description import (
    IMAGENET,
    Description,
    LeftOpen,
    Shapes,
    one_if_equal,
    pair,
    preprocessing,
    refuse,
    section,
)
from vision_jax.weights.families.swin_layout import (
    NORM_EPS,
    fitted_windows,
    is_padded,
    pretrained_windows,
    shape_fields,
    stage_maps,
    table_layouts,
)
from vision_jax.weights.families.vit_timm import BLOCKS, preprocessing_for, preprocessing_of
from vision_jax.weights.mapping import TORCH, Names

_BUFFERS = "(relative_position_index|relative_coords_table|attn_mask|k_bias)$"
# In timm's architecture names: the window, or from which to which it was fine-tuned, and likewise the image size.
_SIZES = re.compile(r"_window(?:(\d+)to)?(\d+)_(?:(\d+)to)?(\d+)$")


def names_official(version: int) -> Names:
    rules = (
        (r"^patch_embed", "patch_embed/proj"),
        (r"^patch_norm", "patch_embed/norm"),
        *([(r"attn/(q|v)(uery|alue)/bias", r"attn/\1_bias")] if version == 2 else []),
        (r"cpb_mlp/hidden", "cpb_mlp/0"),
        (r"cpb_mlp/out", "cpb_mlp/2"),
        (r"^stages_", "layers/"),
        *BLOCKS,
        *TORCH,
    )
    return Names(rules, (("logit_scale", "heads"),), ("layers.",), _BUFFERS)


def names_timm(version: int) -> Names:
    own = ((r"^head", "head/fc"), (r"^stages_(\d+)/downsample", lambda m: f"layers/{int(m[1]) + 1}/downsample"))
    names = names_official(version)
    return names._replace(rules=own + names.rules)


def with_tables(names: Names, model: Swin, image_size: Pair) -> Names:
    """The `names` for a file with tables for the maps of `image_size`."""
    return names._replace(layouts=table_layouts(model, [window for window, _ in fitted_windows(model, image_size)]))


def names_of(model: Swin, image_size: Pair) -> Names:
    """Names as timm writes them."""
    return with_tables(names_timm(model.version), model, image_size)


def describe_timm(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """timm's SwinTransformer and SwinTransformerV2: config.json of a hub folder, or None for a bare file.

    A bare V2 file does not show its window, nor the `pretrained_window` from which it was fine-tuned.
    """
    config, given = config or {}, dict(given or {})
    args, source = section(config, "model_args"), section(config, "pretrained_cfg")
    for name, known in {"global_pool": ("avg",), "always_partition": (False,), "head_dim": (None,)}.items():
        if args.get(name, known[0]) not in known:
            raise ConfigError(f"the file's model_args have {name}={args[name]!r}, which Swin does not know here")
    said = _said_by_name(str(config.get("architecture", "")).partition(".")[0])
    size = args.get("img_size") or (source.get("input_size") or [None])[1:] or said.get("image_size")
    if size and "image_size" not in given:
        given["image_size"] = pair(size)
    shapes, fields = _read_fields(tensors, names_timm, args.get("mlp_ratio"))
    windows = args.get("window_size") or said.get("window")
    is_v1 = fields["version"] == 1
    windows = _tables_windows(shapes, fields) if windows is None and is_v1 else _expand(windows, fields)
    if not is_v1 and "pretrained_window" not in given and "window" not in given:
        sizes = args.get("pretrained_window_sizes") or said.get("pretrained") or (0,) * len(fields["depths"])
        fields["pretrained_window"] = sizes
    fields |= {"window_rule": "axis", "mask_padding": False}
    described = _described(fields, windows, given, shapes, preprocessing_of(source))
    model = described.create_model()
    maps, fitted = stage_maps(model, described.image_size), fitted_windows(model, described.image_size)
    for depth, (height, width), (window, shift) in zip(model.depths, maps, fitted, strict=True):
        if depth > 1 and any(shift) and is_padded((height, width), window):
            raise ConfigError(
                f"windows of {window[0]}x{window[1]} do not divide the file's maps of {height}x{width}, which timm shifts "
                "first and then pads, and Swin here pads first"
            )
    return described


def describe_official(config: None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """microsoft/Swin-Transformer's .pth: V1's window is read from its tables, V2's from its coordinates."""
    shapes, fields = _read_fields(tensors, names_official)
    given, stages = dict(given or {}), range(len(fields["depths"]))
    coordinates = [tensors.get(f"layers.{s}.blocks.0.attn.relative_coords_table") for s in stages]
    windows = _tables_windows(shapes, fields) if fields["version"] == 1 else None
    if fields["version"] == 2 and all(coordinates):
        windows = [tuple((side + 1) // 2 for side in table.shape[1:3]) for table in coordinates]
        if "pretrained_window" not in given:
            fields["pretrained_window"] = tuple(map(_pretrained_side, coordinates))
    described = _described(fields, windows, given, shapes, {})
    # Official configs for larger images have TEST.CROP: False.
    crop = {"resize": "squash"} if max(described.image_size) > 256 else {"crop": 224 / 256}
    return described._replace(preprocessing=preprocessing(IMAGENET, **crop))


def _read_fields(
    tensors: Mapping, names: Callable[[int], Names], mlp_ratio: float | None = None
) -> tuple[Shapes, dict[str, Any]]:
    if "absolute_pos_embed" in tensors:
        raise ConfigError("the file has 'absolute_pos_embed', but Swin has no absolute positions here")
    version = 2 if "layers.0.blocks.0.attn.logit_scale" in tensors else 1
    shapes = Shapes(tensors, names(version))
    return shapes, shape_fields(shapes, version, mlp_ratio)


def _described(
    fields: dict, windows: list[Pair] | None, given: dict, shapes: Shapes, preprocessing: dict
) -> Description:
    """windows: the stages' windows if the file shows them, smaller where they shrank to their maps."""
    size, depth = given.pop("image_size", None), len(fields["depths"])
    if "window" not in given:
        if windows is None:
            raise LeftOpen(
                "window", "the file does not show its windows; pass window (and pretrained_window, if it was another)"
            )
        fields["window"] = one_if_equal(tuple(map(max, zip(*windows, strict=True))))
    pretrained = fields.pop("pretrained_window", None)
    fields |= given
    model = Swin(**fields)
    image_size = (
        _image_size(shapes.tensors, windows or [as_pair(model.window)] * depth, model) if size is None else pair(size)
    )
    fitted = [window for window, _ in fitted_windows(model, image_size)]
    if pretrained is not None:
        fields["pretrained_window"] = pretrained_windows(pretrained, fitted)
        model = Swin(**fields)
    for s in range(depth):
        rows = _rows(shapes, s) if model.version == 1 else None
        if rows not in (None, math.prod(2 * side - 1 for side in fitted[s])):
            raise ConfigError(
                f"the file's table of {rows} positions in stage {s} is not that of the window {fitted[s]} which "
                f"window={model.window} gives for image_size={image_size}; every stage has the same window here"
            )
    return Description("swin", fields, image_size, preprocessing, with_tables(shapes.names, model, image_size))


def _said_by_name(architecture: str) -> dict[str, Any]:
    """What the name of a timm architecture says, such as swinv2_base_window12to16_192to256."""
    if (match := _SIZES.search(architecture)) is None:
        return {}
    before, window, _, size = (number and int(number) for number in match.groups())
    said = {"window": window, "image_size": size}
    return said | ({"pretrained": (before, before, before, before // 2)} if before else {})


def _rows(shapes: Shapes, stage: int) -> int:
    """The number of rows of a stage's table."""
    return shapes.of(f"stages_{stage}/blocks_0/attn/{TABLE}", 2)[0]


def _tables_windows(shapes: Shapes, fields: Mapping) -> list[Pair]:
    """V1's windows, from its tables. Raises LeftOpen if they are not square."""
    windows = []
    for s in range(len(fields["depths"])):
        rows = _rows(shapes, s)
        side = (math.isqrt(rows) + 1) // 2
        if (2 * side - 1) ** 2 != rows:
            raise LeftOpen("window", f"the file's table of {rows} positions is of no square window; pass window")
        windows.append((side, side))
    return windows


def _expand(window: Any, fields: Mapping) -> list[Pair] | None:
    """A window per stage, from timm's single number, (height, width), or one or two numbers per stage."""
    depth = len(fields["depths"])
    if window is None or isinstance(window, int) or (len(window) == 2 and isinstance(window[0], int)):
        return window and [pair(window)] * depth
    return [pair(side) for side in window]


def _pretrained_side(coordinates) -> int:
    """The window that V2 learned in, from its coordinates: sign(c) log2(1 + |c|) / 3 with c = 8 offset / (side - 1)."""
    side = (coordinates.shape[1] + 1) // 2
    last = 2 ** (3 * abs(float(np.asarray(coordinates.read()).flat[0]))) - 1
    return 1 if side == 1 else round(8 * (side - 1) / last) + 1


def _image_size(tensors: Mapping, windows: list[Pair], model: Swin) -> Pair:
    """From masks, which count windows; else the size whose maps shrank the windows, or fit one window in the last stage."""
    side, stage = max(windows[-1]), len(windows) - 1
    for s, window in reversed(list(enumerate(windows))):
        if window != as_pair(model.window):
            side, stage = max(window), s
    for s in range(len(windows)):
        if (mask := tensors.get(f"layers.{s}.blocks.1.attn_mask")) is not None:
            side, stage = math.isqrt(mask.shape[0] * mask.shape[1]), s
            break
    return tuple(side * 2**stage * step for step in as_pair(model.patch_size))


def config_timm(model: Swin, image_size: Pair, preprocessing: Mapping | None = None) -> dict[str, Any]:
    """config.json of a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    Raises ConfigError if timm would give different outputs for images of `image_size` (height, width).
    """
    refuse(model, "timm's Swin", features_only=(False,), act=("gelu",), norm_eps=(NORM_EPS,))
    fitted, maps = fitted_windows(model, image_size), stage_maps(model, image_size)
    size = f"images of {image_size[0]}x{image_size[1]}"
    if fitted != fitted_windows(model, image_size, "axis"):
        raise ConfigError(f"timm's windows shrink by axis, this model's (window_rule='square') do not, for {size}")
    if any(map(is_padded, maps, [window for window, _ in fitted])):
        raise ConfigError(f"windows do not divide the maps of {size}, and timm pads those in another way")
    args = {
        "img_size": list(image_size),
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depths": model.depths,
        "num_heads": model.num_heads,
        "window_size": model.window,
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
    }
    if model.version == 2:
        args["pretrained_window_sizes"] = [size or 0 for size in model.pretrained_windows]
    source = {"input_size": [3, *image_size], "num_classes": model.num_classes, "classifier": "head.fc"}
    source |= {"first_conv": "patch_embed.proj", "pool_size": list(maps[-1]), "fixed_input_size": True}
    source |= preprocessing_for(preprocessing)
    return {
        "architecture": "swin_tiny_patch4_window7_224" if model.version == 1 else "swinv2_tiny_window8_256",
        "num_classes": model.num_classes,
        "num_features": model.width * 2 ** (len(model.depths) - 1),
        "global_pool": "avg",
        "model_args": args,
        "pretrained_cfg": source,
    }
