"""What all Swin formats share: how they store tables of relative positions, and what shapes tell.

A file's table belongs to a window that shrank to the maps of the file's image size; ours keep the configured window,
and hold what a smaller one learned in their middle.
"""

from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.swin import Swin
from vision_jax.models.window_attention import TABLE
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair, fit_window
from vision_jax.weights.families.description import Shapes, one_if_equal
from vision_jax.weights.mapping import Layout

NORM_EPS = 1e-5  # of all norms in timm's and microsoft's Swin, and of some in transformers' whatever its config says
FIRST = "stages_0/blocks_0"


def shape_fields(shapes: Shapes, version: int, mlp_ratio: float | None = None) -> dict[str, Any]:
    """Fields of `create_model` that names and shapes tell.

    mlp_ratio: what a config says; the shapes tell it only up to rounding.
    """
    heads_name, rank = ("logit_scale", 1) if version == 2 else (TABLE, 2)
    for needed in ("patch_embed/kernel", f"{FIRST}/attn/{heads_name}"):
        if not shapes.has(needed):
            raise ConfigError(f"the file is no Swin of this format: it lacks '{shapes.names.of(needed)}'")
    stages = [f"stages_{s}" for s in range(shapes.count("stages_"))]
    *patch, _, width = shapes.of("patch_embed/kernel", 4)
    widths = [width * 2**s for s in range(len(stages))]
    hidden = [shapes.of(f"{stage}/blocks_0/mlp/fc1/kernel", 2)[1] for stage in stages]
    ratios = [size / width for size, width in zip(hidden, widths, strict=True)] if mlp_ratio is None else [mlp_ratio]
    fitting = [r for r in ratios if [int(width * r) for width in widths] == hidden]
    if not fitting:
        raise ConfigError(f"the MLPs' widths {hidden} are those of no mlp_ratio; pass 'mlp_ratio'")
    return {
        "num_classes": shapes.outputs("head") or 0,
        "patch_size": one_if_equal(patch),
        "width": width,
        "depths": tuple(shapes.count(f"{stage}/blocks_") for stage in stages),
        "num_heads": tuple(shapes.of(f"{stage}/blocks_0/attn/{heads_name}", rank)[-1] for stage in stages),
        "version": version,
        "mlp_ratio": fitting[0],
        "qkv_bias": shapes.has(f"{FIRST}/attn/query/bias"),
        "norm_eps": NORM_EPS,
    }


def stage_maps(model: Swin, image_size: Pair) -> list[Pair]:
    """(height, width) of each stage's maps for images of `image_size`."""
    maps = [tuple(-(-side // step) for side, step in zip(image_size, as_pair(model.patch_size), strict=True))]
    for _ in model.depths[1:]:
        maps.append(tuple(-(-side // 2) for side in maps[-1]))
    return maps


def fitted_windows(model: Swin, image_size: Pair, rule: str | None = None) -> list[tuple[Pair, Pair]]:
    """(window, shift) of each stage for images of `image_size`, as `rule` (None: the model's) shrinks it to the maps."""
    window = as_pair(model.window)
    return [fit_window(size, window, rule or model.window_rule) for size in stage_maps(model, image_size)]


def learned_windows(model: Swin, image_size: Pair) -> tuple[int, ...]:
    """The window in which each stage of V2 learned its offsets, if it was trained on images of `image_size`."""
    fitted = [max(window) for window, _ in fitted_windows(model, image_size)]
    return tuple(size or side for size, side in zip(model.pretrained_windows, fitted, strict=True))


def is_padded(size: Pair, window: Pair) -> bool:
    return any(side % length for side, length in zip(size, window, strict=True))


def table_layouts(model: Swin, windows: list[Pair]) -> tuple[tuple[str, str | Layout], ...]:
    """The layouts of V1's tables, for the stages' windows, which may have shrunk; and of V2's logit scale."""
    tables = (
        (rf"^stages_{s}/.*{TABLE}", _middle_of(as_pair(model.window), window)) for s, window in enumerate(windows)
    )
    return (*tables, ("logit_scale", "heads"))


def _middle_of(full: Pair, window: Pair) -> Layout:
    """Puts [(2p-1)(2q-1), heads], for a window (p, q), in the middle of a zero table [2P-1, 2Q-1, heads]."""
    margins = [(whole - side,) * 2 for whole, side in zip(full, window, strict=True)]
    sides = [2 * side - 1 for side in window]
    middle = tuple(slice(margin, margin + side) for (margin, _), side in zip(margins, sides, strict=True))
    return Layout(
        lambda x: np.pad(x.reshape(*sides, x.shape[-1]), [*margins, (0, 0)]),
        lambda x: x[middle].reshape(-1, x.shape[-1]),
    )


def pretrained_windows(sizes, windows) -> int | tuple[int, ...] | None:
    """The field `pretrained_window` from one size per stage; 0 stands for the stage's own window."""
    if not isinstance(sizes, list | tuple) or not all(type(side) is int and side >= 0 for side in sizes):
        raise ConfigError(f"the windows that Swin was pre-trained in must be a whole number a stage, and not {sizes!r}")
    own = [max(window) for window in windows]
    sizes = tuple(size or side for size, side in zip(sizes, own, strict=False))  # transformers' default has four sizes
    return None if list(sizes) == own else sizes
