"""What all formats of Swin share: how tables of relative positions lie in them, and what shapes tell.

A table of a file belongs to a window that shrank to the maps of the file's image size; ours keep the configured window,
and what a smaller one learned lies in their middle.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.swin import Swin
from vision_jax.models.window_attention import TABLE
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair, fit_window
from vision_jax.weights.families.description import count_blocks
from vision_jax.weights.families.entries import dense, norm
from vision_jax.weights.mapping import Entry, Layout

NORM_EPS = 1e-5  # of all norms of timm's and microsoft's Swin, and of some of transformers' whatever its config says


class Names(NamedTuple):
    """Where a format keeps what tells the architecture; those from `bias_table` on are within a block."""

    patch: str
    stages: str
    head: str
    bias_table: str
    scale: str
    qkv_bias: tuple[str, ...]
    fc1: str


def shape_fields(tensors: Mapping, names: Names, version: int, mlp_ratio: float | None = None) -> dict[str, Any]:
    """Fields of `create_model` that names and shapes tell.

    mlp_ratio: what a config says; the shapes tell it but for what rounding hides.
    """
    first = f"{names.stages}0.blocks.0."
    heads_name = names.bias_table if version == 1 else names.scale
    for needed in (names.patch, f"{first}{heads_name}"):
        if needed not in tensors:
            raise ConfigError(f"the file is no Swin of this format: it lacks '{needed}'")
    stages = [f"{names.stages}{s}.blocks." for s in range(count_blocks(tensors, names.stages))]
    width, _, *patch = tensors[names.patch].shape
    hidden = [tensors[f"{stage}0.{names.fc1}"].shape[0] for stage in stages]
    widths = [width * 2**s for s in range(len(stages))]
    ratios = [size / width for size, width in zip(hidden, widths, strict=True)] if mlp_ratio is None else [mlp_ratio]
    fitting = [r for r in ratios if [int(width * r) for width in widths] == hidden]
    if not fitting:
        raise ConfigError(f"the MLPs' widths {hidden} are those of no mlp_ratio; pass 'mlp_ratio'")
    return {
        "num_classes": tensors[names.head].shape[0] if names.head in tensors else 0,
        "patch_size": one_if_equal(patch),
        "width": width,
        "depths": tuple(count_blocks(tensors, stage) for stage in stages),
        "num_heads": tuple(tensors[f"{stage}0.{heads_name}"].shape[1 if version == 1 else 0] for stage in stages),
        "version": version,
        "mlp_ratio": fitting[0],
        "qkv_bias": any(f"{first}{name}" in tensors for name in names.qkv_bias),
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
    """The window of each stage whose offsets V2 learned, where it took images of `image_size`."""
    fitted = [max(window) for window, _ in fitted_windows(model, image_size)]
    return tuple(size or side for size, side in zip(model.pretrained_windows, fitted, strict=True))


def is_padded(size: Pair, window: Pair) -> bool:
    return any(side % length for side, length in zip(size, window, strict=True))


def backbone(
    model: Swin, stages: str, block: Callable[[str, str, Pair], list[Entry]], windows: list[Pair], merges_after: bool
) -> list[Entry]:
    """All stages. block(ours, theirs, window) gives a block's entries.

    merges_after: the layer that halves the map stands at the end of a stage, as ours, or at the beginning of the next.
    """
    table = []
    for s, depth in enumerate(model.depths):
        for b in range(depth):
            table += block(f"stages_{s}/blocks_{b}", f"{stages}{s}.blocks.{b}", windows[s])
        if s < len(model.depths) - 1:
            ours, theirs = f"stages_{s}/downsample", f"{stages}{s if merges_after else s + 1}.downsample"
            table += dense(f"{ours}/reduction", f"{theirs}.reduction", bias=False) + norm(
                f"{ours}/norm", f"{theirs}.norm"
            )
    return table


def position_bias(model: Swin, ours: str, table: str, scale: str, mlp: str, window: Pair) -> list[Entry]:
    """V1's table, of a window that may have shrunk; V2's scale of logits and MLP."""
    if model.version == 1:
        return [Entry(f"{ours}/{TABLE}", table, _middle_of(as_pair(model.window), window))]
    return [
        Entry(f"{ours}/logit_scale", scale, "heads"),
        *dense(f"{ours}/cpb_mlp/hidden", f"{mlp}.0"),
        *dense(f"{ours}/cpb_mlp/out", f"{mlp}.2", bias=False),
    ]


def _middle_of(full: Pair, window: Pair) -> Layout:
    """[(2p-1)(2q-1), heads] of a window (p, q) as the middle of a table [2P-1, 2Q-1, heads] of zeros."""
    margins = [(whole - side,) * 2 for whole, side in zip(full, window, strict=True)]
    sides = [2 * side - 1 for side in window]
    middle = tuple(slice(margin, margin + side) for (margin, _), side in zip(margins, sides, strict=True))
    return Layout(
        lambda x: np.pad(x.reshape(*sides, x.shape[-1]), [*margins, (0, 0)]),
        lambda x: x[middle].reshape(-1, x.shape[-1]),
    )


def one_if_equal(sides) -> int | tuple[int, ...]:
    """A number for sides that are equal, as `create_model` and config.json take it."""
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


def pretrained_windows(sizes, windows) -> int | tuple[int, ...] | None:
    """The field `pretrained_window` of a size a stage; 0 stands for the stage's own window."""
    if not isinstance(sizes, list | tuple) or not all(type(side) is int and side >= 0 for side in sizes):
        raise ConfigError(f"the windows that Swin was pre-trained in must be a whole number a stage, and not {sizes!r}")
    own = [max(window) for window in windows]
    sizes = tuple(size or side for size, side in zip(sizes, own, strict=False))  # transformers' default has four
    return None if list(sizes) == own else sizes
