"""Checks that the model that a file describes may be built: its numbers are untrusted, and tracing takes memory."""

import contextlib
import math
from collections.abc import Iterator

from vision_jax import limits
from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.files import printable
from vision_jax.models.clip import CLIP
from vision_jax.models.mae import MAE
from vision_jax.models.swin import Swin
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair, grid_of
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.swin_layout import fitted_windows, stage_maps
from vision_jax.weights.tensors import reason

_LONGEST_MESSAGE = 1000  # characters


@contextlib.contextmanager
def described_by(path) -> Iterator[None]:
    """Turns whatever an unusable description raises into a one-line ConfigError that begins with `path`."""
    shown = printable(path, _LONGEST_MESSAGE)
    try:
        yield
    except ConfigError as error:
        message = printable(error, _LONGEST_MESSAGE)  # it may already name the path, or a file in it
        raise ConfigError(message if message.startswith(f"'{shown}") else f"'{shown}': {message}") from error
    except (RunError, Stopped):
        raise
    except Exception as error:  # from jax and flax while tracing, or from whatever an unforeseen type breaks
        raise ConfigError(f"'{shown}': what it says of its model makes none ({reason(error)})") from error


def check_model(model, image_size: Pair) -> None:
    """Raises ConfigError if tracing the model would take far more time or memory than any published one, although
    `create_model` accepts each of its fields."""
    if max(image_size) > limits.FILE_IMAGE_SIDE:
        raise ConfigError(
            f"it is for images of {printable(image_size)}, and none of more than {limits.FILE_IMAGE_SIDE} pixels a side is read"
        )
    if isinstance(model, CLIP):
        _check_pairs("texts", model.context_length, model.context_length)
        model = model.image_module(parent=None)
    if isinstance(model, Swin):
        windows = [window for window, _ in fitted_windows(model, image_size)]
        for size, window in zip(stage_maps(model, image_size), windows, strict=True):
            padded = math.prod(side + -side % length for side, length in zip(size, window, strict=True))
            _check_pairs("windows", max(padded, math.prod(window)), math.prod(window))
    elif isinstance(model, ViT | MAE) and (kind := getattr(model, "posemb", "sincos2d")):  # MAE's only kind
        grid = model.grid(image_size) if isinstance(model, ViT) else grid_of(image_size, as_pair(model.patch_size))
        places = math.prod(grid)
        if kind == "relative":
            _check_pairs("images", places, places)
        if "sincos" in kind and places * max(model.width, getattr(model, "decoder_width", 0)) > limits.POSITIONS:
            raise ConfigError(f"its table of positions for images of {image_size} is larger than any that is computed")


def check_blocks(model) -> None:
    """Raises ConfigError if a model has far more blocks than any published one; each has some fifteen arrays."""
    if (count := _blocks(model)) > limits.BLOCKS:
        raise ConfigError(f"its model has {count:,} blocks, more than the {limits.BLOCKS} of any")


def _blocks(model) -> int:
    if isinstance(model, CLIP):
        return model.text_depth + _blocks(model.image_module(parent=None))
    counts = [getattr(model, field, None) or 0 for field in ("depth", "decoder_depth", "depths", "blocks", "stem")]
    return sum(sum(count) if isinstance(count, tuple) else count for count in counts)


def _check_pairs(what: str, rows: int, columns: int) -> None:
    if rows * columns > limits.PAIRS:
        raise ConfigError(
            f"its {what} have {rows} x {columns} pairs of tokens, more than the {limits.PAIRS:,} of any model"
        )
