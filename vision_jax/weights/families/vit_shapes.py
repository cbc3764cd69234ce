"""What shapes show about a ViT, whatever its format."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.resnet import stem_size
from vision_jax.ops.patches import as_pair, grid_of
from vision_jax.weights.families.description import LeftOpen, Shapes, one_if_equal, pair


def encoder_fields(shapes: Shapes, root: str = "") -> dict[str, Any]:
    """Fields of the encoder whose parameters' paths begin with `root`."""
    *patch, _, width = shapes.of(f"{root}patch_embed/kernel", 4)
    return {
        "patch_size": one_if_equal(patch),
        "width": width,
        "depth": shapes.count(f"{root}blocks_"),
        "mlp_dim": shapes.of(f"{root}blocks_0/mlp/fc1/kernel", 2)[1],
        "patch_bias": shapes.has(f"{root}patch_embed/bias"),
        "pre_norm": shapes.has(f"{root}norm_pre/scale"),
    }


def classifier_fields(shapes: Shapes) -> dict[str, Any]:
    """Fields of a stand-alone ViT, which may be a hybrid."""
    return {
        **encoder_fields(shapes),
        "num_classes": shapes.outputs("head") or 0,
        "representation_size": shapes.outputs("pre_logits"),
        "cls_token": shapes.has("cls_token"),
        "num_registers": shapes.of("registers", 3)[1] if shapes.has("registers") else 0,
        "stem": stem_of(shapes),
    }


def read_positions(
    shapes: Shapes, fields: dict[str, Any], given: dict, sizes: Iterable[tuple[int, int]], fixed: Mapping[str, Any]
) -> tuple[int, int]:
    """The image size, from `given` (and removed there), from `sizes`, or square; `fields` gain what positions show.

    fixed: what they gain if the file has no positions.
    """
    size, prefix = given.pop("image_size", None), int(fields["cls_token"]) + fields["num_registers"]
    sizes = list(sizes) if size is None else [pair(size)]
    if not shapes.has("pos_embed"):
        if not sizes:
            raise LeftOpen("image_size", "the file has no positions, which would show its image size; pass image_size")
        fields |= fixed
        return sizes[0]
    rows, patch = shapes.of("pos_embed", 3)[1], as_pair(fields["patch_size"])
    image_size, before = fit_positions(rows, patch, fields["stem"], (prefix, 0), sizes, size is not None)
    if before and fields["num_registers"]:
        raise ConfigError("the file has positions of registers, which our ViT has not")
    fields["posemb_cls"] = bool(before)
    return image_size


def stem_of(shapes: Shapes) -> tuple[int, ...] | None:
    """Bottlenecks in each stage of a hybrid's ResNet; None without one."""

    def count(stage: int) -> int:
        units = (f"backbone/stages_{stage}/units_{unit}/conv1/kernel" for unit in itertools.count())
        return sum(1 for _ in itertools.takewhile(shapes.has, units))

    stem = tuple(itertools.takewhile(bool, map(count, itertools.count())))
    return stem if stem or shapes.has("backbone/conv_root/kernel") else None


def fit_positions(
    rows: int,
    patch: tuple[int, int],
    stem: tuple[int, ...] | None,
    prefixes: Iterable[int],
    sizes: Iterable[tuple[int, int]] = (),
    is_certain: bool = False,
) -> tuple[tuple[int, int], int]:
    """The image size that a table of `rows` positions is for, and how many of them come before the patches.

    Args:
        prefixes: possible numbers of positions before the patches, likeliest first.
        sizes: image sizes (height, width) to try; a square if none fits.
        is_certain: whether one of `sizes` must fit.

    Raises:
        ConfigError: none fits, or the positions form no square.
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
