"""Starting from the parameters of another run: what fits is loaded, the rest is resized, dropped or new, and told."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.command_line import read_run_config
from vision_jax.errors import ConfigError
from vision_jax.models.stacking import stack_blocks, unstack_blocks
from vision_jax.ops.patches import as_pair
from vision_jax.training.checkpoints import load_variables, locate
from vision_jax.training.group_table import summarize_paths
from vision_jax.training.param_groups import is_stacked

HEAD = "head/"
TOWERS = ("image", "text")


class InitReport(NamedTuple):
    """Paths of the parameters that were loaded as they are, resized, dropped (of the source) and newly initialised."""

    loaded: list[str]
    resized: list[str]
    dropped: list[str]
    new: list[str]

    def __str__(self) -> str:
        paths = summarize_paths(self._asdict())
        lines = [f"{len(self.loaded)} parameters loaded as they are"]
        for name in ("resized", "dropped", "new"):
            if entries := getattr(self, name):
                lines.append(f"{len(entries)} {'newly initialised' if name == 'new' else name}: {paths[name]}")
        return "\n".join(lines)


def parse_source(source: str) -> tuple[str, pathlib.Path]:
    """(tower, checkpoint) of `config.init_from`: "PATH", or "image=PATH" and "text=PATH" for one tower of a CLIP alone.

    Raises ConfigError where there is no checkpoint.
    """
    tower, _, path = source.partition("=")
    return (tower, locate(path)) if tower in TOWERS else ("", locate(source))


def init_from(source: str, model, image_size, fresh: dict) -> tuple[dict, InitReport]:
    """`fresh` variables with those of the run or checkpoint `source` in their place wherever they fit.

    Scanned and unrolled layers convert into each other. Tables of positions are resampled by the model's own
    `resize_params` from the source's image size to `image_size`. A head for other classes becomes zeros. For
    "image=PATH" the source is a CLIP, of which the tower is taken, or any image model that can be the tower; a model
    that is no CLIP takes the image tower of one. Raises ConfigError where nothing fits or a parameter of the body has
    another shape.
    """
    tower, checkpoint = parse_source(source)
    loaded = jax.tree.map(np.asarray, load_variables(checkpoint))
    if tower and tower not in fresh["params"]:
        raise ConfigError(f"config.init_from={source!r}: the model has no {tower} tower")
    if tower:
        loaded = {name: {tower: tree.get(tower, tree)} for name, tree in loaded.items()}
    elif "image" in loaded["params"] and "image" not in fresh["params"]:
        loaded = {name: tree.get("image", {}) for name, tree in loaded.items()}
    source_size = read_run_config(checkpoint.parent.parent).data.image_size
    params, report = merge(loaded["params"], source_size, model, image_size, fresh["params"], str(checkpoint))
    collections = {name: _statistics(tree, loaded.get(name, {})) for name, tree in fresh.items() if name != "params"}
    return {"params": params, **collections}, report


def _statistics(fresh: dict, loaded: dict) -> dict:
    """A collection such as the batch statistics, from the source where it has them."""
    known = flatten_dict(loaded, sep="/")
    values = {
        name: known[name] if name in known and known[name].shape == value.shape else value
        for name, value in flatten_dict(fresh, sep="/").items()
    }
    return unflatten_dict(values, sep="/")


def merge(
    loaded: dict, source_size, model, image_size, fresh: dict, what: str = "the source"
) -> tuple[dict, InitReport]:
    """`init_from` for parameters at hand: host arrays `loaded` of a model that took images of `source_size`."""
    wanted = flatten_dict(fresh, sep="/")
    loaded = stack_blocks(loaded) if any(map(is_stacked, wanted)) else unstack_blocks(loaded)
    before = flatten_dict(loaded, sep="/")
    after = flatten_dict(model.resize_params(loaded, as_pair(source_size), as_pair(image_size)), sep="/")
    result: dict[str, Any] = {}
    report = InitReport([], [], [], [])
    for name, value in wanted.items():
        fits = name in after and after[name].shape == value.shape
        if fits:
            result[name] = np.asarray(after[name], value.dtype)
            same = after[name].shape == before[name].shape and np.array_equal(after[name], before[name])
            (report.loaded if same else report.resized).append(name)
        elif name in after and not name.startswith(HEAD):
            raise ConfigError(
                f"config.init_from: {what} holds '{name}' as {list(after[name].shape)}, the model needs {list(value.shape)}"
            )
        else:
            result[name] = np.zeros(value.shape, value.dtype) if name in after else value  # only a head comes here
            report.new.append(name)
            if name in after:
                report.dropped.append(name)
    report.dropped.extend(name for name in after if name not in wanted)
    if not report.loaded and not report.resized:
        raise ConfigError(f"config.init_from: nothing in {what} fits this model")
    return unflatten_dict(result, sep="/"), report
