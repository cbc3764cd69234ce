"""Starting from the parameters of another run: what fits is loaded, the rest is resized, dropped or new, and told."""

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


def init_from(source: str, model, image_size, fresh: dict) -> tuple[dict, InitReport]:
    """`fresh` parameters with those of the run or checkpoint `source` in their place wherever they fit.

    Scanned and unrolled layers convert into each other. Tables of positions are resampled by the model's own
    `resize_params` from the source's image size to `image_size`. A head for other classes becomes zeros. Raises
    ConfigError where nothing fits or a parameter of the body has another shape.
    """
    checkpoint = locate(source)
    loaded = jax.tree.map(np.asarray, load_variables(checkpoint)["params"])
    source_size = read_run_config(checkpoint.parent.parent).data.image_size
    return merge(loaded, source_size, model, image_size, fresh, str(checkpoint))


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
