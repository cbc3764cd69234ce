"""Fits parameters to a model that differs in image size, window, number of classes or layer layout."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from vision_jax.errors import ConfigError
from vision_jax.models.stacking import stack_blocks, unstack_blocks
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.swin_layout import learned_windows

HEAD = "head/"
# Fields that change what the same parameters compute, but not their shapes.
UNSEEN = ("act", "norm_eps", "num_heads", "text_act", "text_num_heads", "text_causal", "text_pool")


class Fitted(NamedTuple):
    """Parameters by path, and the paths of those that differ from the source.

    A head for other classes is `renewed`: all zeros. The model must initialise the `new` ones itself, and has no
    place for the `unused` ones.
    """

    params: dict
    resized: list[str]
    renewed: list[str]
    new: list[str]
    unused: list[str]


def fit(params: Mapping, from_size: Pair, model, to_size: Pair, shapes: Mapping, method: str = "bilinear") -> Fitted:
    """Fits `params`, for images of `from_size` (height, width), to `model` for images of `to_size`.

    Args:
        params: nested arrays, with unrolled or scanned layers, on host or device; what is not resized stays there.
        shapes: the parameters of `model`, or jax.ShapeDtypeStructs of them.
        method: how tables of absolute positions are resampled (`ops.resampling.resize_grid`).

    Raises:
        ConfigError: a parameter other than the head's has a wrong shape, or none has a place in the model.
    """
    wanted = flatten_dict(shapes, sep="/")
    params = (stack_blocks if any("blocks" in name.split("/") for name in wanted) else unstack_blocks)(params)
    before = flatten_dict(params, sep="/")
    if hasattr(model, "resize_params"):  # optional in a user's own module
        params = model.resize_params(params, from_size, to_size, method)
    after = flatten_dict(params, sep="/")
    fitted = Fitted({}, [], [], [], [name for name in after if name not in wanted])
    for name, value in wanted.items():
        if name not in after:
            fitted.new.append(name)
        elif after[name].shape == value.shape:
            fitted.params[name] = after[name]
            if after[name] is not before[name] and not np.array_equal(after[name], before[name]):
                fitted.resized.append(name)
        elif name.startswith(HEAD):
            fitted.params[name] = np.zeros(value.shape, value.dtype)
            fitted.renewed.append(name)
        else:
            raise ConfigError(f"it holds '{name}' as {list(after[name].shape)}, the model needs {list(value.shape)}")
    if len(fitted.params) == len(fitted.renewed):
        raise ConfigError("nothing in it fits the model")
    return fitted


def check_functions(theirs, ours) -> None:
    """Raises ConfigError naming a field in which two models compute something else from the same parameters."""
    for field in UNSEEN:
        have, want = (getattr(model, field, None) for model in (theirs, ours))
        if None not in (have, want) and have != want:
            raise ConfigError(f"its weights are of a model with {field}={have!r}, and this one has {want!r}")


def check_windows(theirs, from_size: Pair, ours, to_size: Pair) -> None:
    """Raises ConfigError if Swin V2 would measure offsets by other windows than those in which it learned them."""
    if any(getattr(model, "version", 1) != 2 for model in (theirs, ours)):
        return
    learned = learned_windows(theirs, from_size)
    if learned != learned_windows(ours, to_size):
        raise ConfigError(
            f"its weights learned their offsets in the windows {learned}: set pretrained_window={learned}"
        )
