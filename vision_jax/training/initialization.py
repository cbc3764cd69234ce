"""Starting from the parameters of another model: what fits is loaded, the rest is resized, dropped or new, and told."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.data.classes import some
from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair
from vision_jax.training.group_table import summarize_paths
from vision_jax.weights.fitting import check_functions, check_windows, fit
from vision_jax.weights.sources import WeightsSource, open_weights

TOWERS = ("image", "text")


class InitReport(NamedTuple):
    """Paths of the parameters that were loaded as they are, resized, dropped (of the source) and newly initialised.

    `head` is a line on a head whose classes are not those of the source, in their order.
    """

    loaded: list[str]
    resized: list[str]
    dropped: list[str]
    new: list[str]
    head: str = ""

    def __str__(self) -> str:
        paths = summarize_paths({name: paths for name, paths in self._asdict().items() if name != "head"})
        lines = [f"{len(self.loaded)} parameters loaded as they are"]
        for name in ("resized", "dropped", "new"):
            if entries := getattr(self, name):
                lines.append(f"{len(entries)} {'newly initialised' if name == 'new' else name}: {paths[name]}")
        lines += [self.head] if self.head else []
        return "\n".join(lines)


def split_tower(spec: str) -> tuple[str, str]:
    """(tower, source) of "SOURCE", "image=SOURCE" or "text=SOURCE"."""
    tower, _, rest = spec.partition("=")
    return (tower, rest) if tower in TOWERS else ("", spec)


def open_init_source(spec: str, model, image_size) -> tuple[str, WeightsSource]:
    """(tower, source) of `config.init_from`: "SOURCE", or "image=SOURCE" and "text=SOURCE" for one tower of a CLIP alone.

    What a bare file leaves open, as the number of heads, is taken to be as in `model`, which shall start from it on images
    of `image_size`. Raises ConfigError where there is no such source, or it is none.
    """
    tower, path = split_tower(spec)
    wanted = _image_tower(model) if tower == "image" else model
    wishes = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)}
    wishes |= {"image_size": image_size, "name": "vit" if isinstance(wanted, ViT) else None}
    return tower, open_weights(path, wishes=wishes)


def init_from(spec: str, model, image_size, fresh: dict, class_names: Sequence[str] = ()) -> tuple[dict, InitReport]:
    """`fresh` variables with those of the run, checkpoint or file `spec` in their place wherever they fit.

    Scanned and unrolled layers convert into each other. Tables of positions are resampled by the model's own
    `resize_params` from the source's image size to `image_size`. A head is taken by the names of classes, where the
    source says its own and `class_names` those of the model's first outputs; one for other classes becomes zeros. For
    "image=SOURCE" the source is a CLIP, of which the tower is taken, or any image model that can be the tower; a model
    that is no CLIP takes the image tower of one. Raises ConfigError where nothing fits, a parameter of the body has
    another shape, or the source's model computes something else from the same parameters, as with another activation.
    """
    tower, source = open_init_source(spec, model, image_size)
    theirs = source.create_model()
    if tower and tower not in fresh["params"]:
        raise ConfigError(f"config.init_from={spec!r}: the model has no {tower} tower")
    if tower == "text" and not isinstance(theirs, CLIP):
        raise ConfigError(f"config.init_from={spec!r}: it holds a {type(theirs).__name__}, which has no text tower")
    loaded, read = source.read()
    if tower:
        loaded = {name: {tower: tree.get(tower, tree)} for name, tree in loaded.items()}
    elif isinstance(theirs, CLIP) and not isinstance(model, CLIP):
        loaded = {name: tree.get("image", {}) for name, tree in loaded.items()}
    try:
        if tower != "text":
            check_functions(_image_tower(theirs), _image_tower(model))
        if tower != "image":
            check_functions(theirs, model)
        check_windows(theirs, source.image_size, model, as_pair(image_size))
        given, told = loaded["params"], ""
        if not tower and "head" in given and "head" in fresh["params"]:
            head, told = head_by_name(given["head"], fresh["params"]["head"], source.class_names, class_names)
            if getattr(theirs, "representation_size", None) != getattr(model, "representation_size", None):
                head, told = no_head(head), "the head is new, since the layer before it is another"
            given = {**given, "head": head}
        params, report = merge(given, source.image_size, model, image_size, fresh["params"], source.resampling)
    except ConfigError as error:
        raise ConfigError(f"config.init_from={spec!r}: {error}") from error
    collections = {name: _statistics(tree, loaded.get(name, {})) for name, tree in fresh.items() if name != "params"}
    report = report._replace(dropped=[*report.dropped, *read.unexpected], head=told)
    return {"params": params, **collections}, report


def head_by_name(head: dict, fresh: dict, theirs: Sequence[str], ours: Sequence[str]) -> tuple[dict, str]:
    """A source's head, of classes called `theirs`, for classes called `ours`; and a line that says what became of it.

    Of arrays [..., C] come the columns of our classes, in the shape of `fresh`, zeros where an output has no name; or
    [..., 0], which fits nothing, where the source does not know each of our classes. The head as it is where either has
    no names, or where nothing of it changes.
    """
    theirs, ours, width = tuple(theirs), tuple(ours), np.shape(head["bias"])[-1]
    outputs = np.shape(fresh["bias"])[-1]
    fits = all(np.shape(x)[:-1] == np.shape(fresh[name])[:-1] for name, x in head.items() if name in fresh)
    if not fits or not ours or not 0 < len(theirs) <= width or (theirs == ours and width == outputs):
        return head, ""
    counts, numbers = Counter(theirs), {name: number for number, name in enumerate(theirs)}
    if unknown := [name for name in ours if counts[name] != 1]:
        why = "several classes" if counts[unknown[0]] else "no class"
        line = f"the head is new, since the source, whose classes are {some(theirs)}, has {why} {some(unknown)}"
        return no_head(head), line

    def columns(x: np.ndarray) -> np.ndarray:
        padding = np.zeros((*x.shape[:-1], outputs - len(ours)), x.dtype)
        return np.concatenate([x[..., [numbers[name] for name in ours]], padding], axis=-1)

    line = f"the head is taken by the names of classes: {len(ours)} of the source's {len(theirs)}"
    return {name: columns(np.asarray(x)) for name, x in head.items()}, line


def no_head(head: dict) -> dict:
    """Arrays [..., 0] of a head's [..., C], which fit nothing."""
    return {name: x[..., :0] for name, x in head.items()}


def _image_tower(model):
    return model.image_module(parent=None) if isinstance(model, CLIP) else model


def _statistics(fresh: dict, loaded: dict) -> dict:
    """A collection such as the batch statistics, from the source where it has them."""
    known = flatten_dict(loaded, sep="/")
    values = {
        name: known[name] if name in known and known[name].shape == value.shape else value
        for name, value in flatten_dict(fresh, sep="/").items()
    }
    return unflatten_dict(values, sep="/")


def merge(
    loaded: dict, source_size, model, image_size, fresh: dict, method: str = "bilinear"
) -> tuple[dict, InitReport]:
    """`init_from` for parameters at hand: host arrays `loaded` of a model that took images of `source_size`."""
    fitted = fit(loaded, as_pair(source_size), model, as_pair(image_size), fresh, method)
    known, new = flatten_dict(fresh, sep="/"), [*fitted.renewed, *fitted.new]
    loaded_as_is = [name for name in fitted.params if name not in {*fitted.resized, *new}]
    params = {name: fitted.params.get(name, value) for name, value in known.items()}
    report = InitReport(loaded_as_is, fitted.resized, [*fitted.renewed, *fitted.unused], new)
    return unflatten_dict(params, sep="/"), report
