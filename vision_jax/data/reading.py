"""How the host makes one row of a batch out of an example of a source.

A reader is what a task's `reader(source, train)` returns: (example, rng) -> {name: array} with all `fields` of the task, of
just their shapes, or the run stops. `rng`, from which all its randomness must come, follows from the example and the epoch, so
that a run that goes on sees what it would have seen; in evaluation it is None. Worker processes get copies of a reader by
pickle: a function of a module, a dataclass. An example for which it raises OSError or BrokenImage is skipped by the batch's
mask; any other error stops the run.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vision_jax.data.augment import TrainTransform, train_transform
from vision_jax.data.decoding import BrokenImage, decode, reason
from vision_jax.data.images import EvalTransform, eval_transform, image_size
from vision_jax.errors import ConfigError
from vision_jax.files import printable

Rows = dict[str, np.ndarray]
_told: set[str] = set()  # names of broken images, in this process


class Field(NamedTuple):
    """What one example has in a batch's array [B, *shape] of `dtype`."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class PictureReader:
    """ "image", uint8[H, W, 3]: decoded, and transformed as in training, by `rng`, or as in evaluation."""

    transform: TrainTransform | EvalTransform

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        picture = decode(example["image"], self.transform.memory)
        return {"image": self.transform(picture, rng) if rng else self.transform(picture)}


class LabelReader(PictureReader):
    """A picture and its "label", int32: the number of its class, 0 where it has none."""

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        if "labels" in example and "label" not in example:
            name = printable(example.get("name", "an example"))
            raise ConfigError(
                f"{name} has 'labels', any number of them, and no 'label'; config.task='multi_label' learns such"
            )
        return {**super().__call__(example, rng), "label": np.int32(example.get("label", 0))}


def transform_of(data, train: bool) -> TrainTransform | EvalTransform:
    """The transform that a config's `data` section describes; raises ConfigError where its values make no sense."""
    return train_transform(data) if train else eval_transform(data)


def picture_fields(data) -> dict[str, Field]:
    return {"image": Field((*image_size(data), 3), np.uint8)}


def label_fields(data) -> dict[str, Field]:
    """Of a `LabelReader`'s batches."""
    return {**picture_fields(data), "label": Field((), np.int32)}


def read(source, id: int, reader: Callable, rng: np.random.Generator | None = None) -> Rows | None:
    """What `reader` makes of an example; None where it cannot be read, which is told on stderr, once for each name."""
    name = f"example {id}"
    try:
        example = source[id]
        name = example.get("name", name)
        return reader(example, rng)
    except (OSError, BrokenImage) as error:
        why = reason(error)
    if name not in _told:
        _told.add(name)
        # One piece, since other threads write, too.
        print(f"skipping broken image {printable(name)}: {why}\n", end="", file=sys.stderr, flush=True)
    return None
