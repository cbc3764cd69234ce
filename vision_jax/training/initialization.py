"""Starting from another model's parameters: load what fits, resize, drop or newly initialise the rest, report it all."""

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
    """Paths of the parameters that were loaded as they are, resized, dropped (those of the source) and newly initialised.

    `head` is a line about a head whose classes differ from the source's or come in another order.
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
    """(tower, source) for "SOURCE", "image=SOURCE" or "text=SOURCE"."""
    tower, _, rest = spec.partition("=")
    return (tower, rest) if tower in TOWERS else ("", spec)


def open_init_source(spec: str, model, image_size) -> tuple[str, WeightsSource]:
    """(tower, source) for `config.init_from`: "SOURCE", or "image=SOURCE" and "text=SOURCE" for one tower of a CLIP only.

    What a bare file does not say, such as the number of heads, is taken from `model`, which will start from it on images
    of `image_size`. Raises ConfigError if the source does not exist or is not usable.
    """
    tower, path = split_tower(spec)
    wanted = _image_tower(model) if tower == "image" else model
    wishes = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)}
    wishes |= {"image_size": image_size, "name": "vit" if isinstance(wanted, ViT) else None}
    return tower, open_weights(path, wishes=wishes)


def init_from(spec: str, model, image_size, fresh: dict, class_names: Sequence[str] = ()) -> tuple[dict, InitReport]:
    """`fresh` variables, replaced by those of the run, checkpoint or file `spec` wherever they fit.

    Scanned and unrolled layers convert into each other. Position embeddings are resampled by the model's own
    `resize_params` from the source's image size to `image_size`. A head is matched by class name if the source names its
    classes and `class_names` those of the model's first outputs; a head for other classes becomes zeros. For
    "image=SOURCE" the source is a CLIP, whose image tower is taken, or any image model that can be the tower; a model
    that is not a CLIP takes a CLIP's image tower. Raises ConfigError if nothing fits, if a parameter of the body has
    another shape, or if the source's model computes something else from the same parameters, as with another activation.
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
    """A source's head for classes `theirs`, converted to one for classes `ours`; and a line that says what happened to it.

    From arrays [..., C] come the columns of our classes, in the shape of `fresh`, with zeros for outputs without a name;
    or arrays [..., 0], which fit nothing, if the source lacks any of our classes. The head is unchanged if either side
    has no names, or if nothing needs to change.
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
    """Arrays [..., 0], which fit nothing, in place of a head's [..., C]."""
    return {name: x[..., :0] for name, x in head.items()}


def _image_tower(model):
    return model.image_module(parent=None) if isinstance(model, CLIP) else model


def _statistics(fresh: dict, loaded: dict) -> dict:
    """A collection such as the batch statistics, with the source's values where it has them."""
    known = flatten_dict(loaded, sep="/")
    values = {
        name: known[name] if name in known and known[name].shape == value.shape else value
        for name, value in flatten_dict(fresh, sep="/").items()
    }
    return unflatten_dict(values, sep="/")


def merge(
    loaded: dict, source_size, model, image_size, fresh: dict, method: str = "bilinear"
) -> tuple[dict, InitReport]:
    """`init_from` for parameters in memory: host arrays `loaded` of a model that took images of `source_size`."""
    fitted = fit(loaded, as_pair(source_size), model, as_pair(image_size), fresh, method)
    known, new = flatten_dict(fresh, sep="/"), [*fitted.renewed, *fitted.new]
    loaded_as_is = [name for name in fitted.params if name not in {*fitted.resized, *new}]
    params = {name: fitted.params.get(name, value) for name, value in known.items()}
    report = InitReport(loaded_as_is, fitted.resized, [*fitted.renewed, *fitted.unused], new)
    return unflatten_dict(params, sep="/"), report
