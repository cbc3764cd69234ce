"""How the host makes one row of a batch from an example of a source.

A task's `reader(source, train)` returns a reader: (example, rng) -> {name: array} with all `fields` of the task in exactly
their shapes, or the run stops. All its randomness must come from `rng`, which depends on the example and the epoch, so that
a resumed run sees the same data; in evaluation it is None. Worker processes get copies of a reader by pickle, so it must be
a module's function or a dataclass. An example for which it raises OSError or BrokenImage is masked out of the batch; any
other error stops the run.
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
_told: set[str] = set()  # names of broken images already reported in this process


class Field(NamedTuple):
    """One example's part of a batch's array [B, *shape] of `dtype`."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class PictureReader:
    """Reads "image", uint8[H, W, 3]: decoded, and transformed as in training, with `rng`, or as in evaluation."""

    transform: TrainTransform | EvalTransform

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        picture = decode(example["image"], self.transform.memory)
        return {"image": self.transform(picture, rng) if rng else self.transform(picture)}


class LabelReader(PictureReader):
    """Reads a picture and its "label", int32: the number of its class, 0 if it has none."""

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        if "labels" in example and "label" not in example:
            name = printable(example.get("name", "an example"))
            raise ConfigError(
                f"{name} has 'labels', any number of them, and no 'label'; config.task='multi_label' learns such"
            )
        return {**super().__call__(example, rng), "label": np.int32(example.get("label", 0))}


def transform_of(data, train: bool) -> TrainTransform | EvalTransform:
    """The transform that a config's `data` section describes; raises ConfigError if its values make no sense."""
    return train_transform(data) if train else eval_transform(data)


def picture_fields(data) -> dict[str, Field]:
    return {"image": Field((*image_size(data), 3), np.uint8)}


def label_fields(data) -> dict[str, Field]:
    """The fields of a `LabelReader`'s batches."""
    return {**picture_fields(data), "label": Field((), np.int32)}


def read(source, id: int, reader: Callable, rng: np.random.Generator | None = None) -> Rows | None:
    """What `reader` makes from an example; None if it cannot be read, which is reported on stderr, once per name."""
    name = f"example {id}"
    try:
        example = source[id]
        name = example.get("name", name)
        return reader(example, rng)
    except (OSError, BrokenImage) as error:
        why = reason(error)
    if name not in _told:
        _told.add(name)
        # Written in one piece, since other threads write, too.
        print(f"skipping broken image {printable(name)}: {why}\n", end="", file=sys.stderr, flush=True)
    return None
