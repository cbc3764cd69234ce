"""Outlines of data: how many examples and classes a source has, for work that needs no pictures."""

import dataclasses
import re

from vision_jax.data.sources import open_source
from vision_jax.data.sources.wds import expand
from vision_jax.errors import ConfigError

# Examples per split, and classes, by TFDS's names (tensorflow.org/datasets/catalog). "imagenet21k" is not a TFDS set: it
# stands for the 14,197,122 pictures in 21,841 classes of the fall 2011 release (image-net.org).
TFDS = {
    "imagenet2012": ({"train": 1_281_167, "validation": 50_000}, 1000),
    "imagenet21k": ({"full": 14_197_122}, 21_841),
    "cifar10": ({"train": 50_000, "test": 10_000}, 10),
    "cifar100": ({"train": 50_000, "test": 10_000}, 100),
    "coco_captions": ({"train": 82_783, "val": 5_000, "restval": 30_504, "test": 5_000}, 0),
}
PAIRS_PER_SHARD = 10_000  # img2dataset's default


@dataclasses.dataclass(frozen=True)
class Outline:
    """A source whose examples cannot be read."""

    examples: int
    num_classes: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"class {i}" for i in range(self.num_classes))

    @property
    def target_names(self) -> tuple[str, ...]:
        return tuple(f"target {i}" for i in range(self.num_classes))

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int):
        raise NotImplementedError("an outline of a source has no examples")


def outline_source(spec, *, tfds_dir: str = "", examples: int | None = None, classes: int | None = None):
    """The source that `spec` names (see `open_source`) if it is present, else an outline of it.

    `examples` and `classes` fill in what is unknown, and override what is known. Without them the sizes of a few TFDS
    data sets are known, and missing shards count as 10,000 pairs each, as img2dataset writes them.

    Raises:
        ConfigError: the data is neither present nor known.
    """
    if examples is not None and classes is not None:
        return Outline(examples, classes)
    try:
        source = open_source(spec, tfds_dir=tfds_dir)
    except ConfigError as error:
        if (source := _known(spec)) is None:
            raise ConfigError(f"{error}; to plan without the data give --examples=N --classes=N") from error
    if examples is None and classes is None:
        return source
    return Outline(examples or len(source), source.num_classes if classes is None else classes)


def _known(spec) -> Outline | None:
    if not isinstance(spec, str):  # a mix of (source, weight) pairs
        parts = [_known(part) for part, _ in spec]
        return None if None in parts else Outline(sum(map(len, parts)), max(part.num_classes for part in parts))
    kind, _, rest = spec.partition(":")
    if kind == "wds" and "*" not in rest and rest.endswith(".tar"):
        return Outline(PAIRS_PER_SHARD * len(expand(rest)), 0)
    name, _, splits = rest.partition(":")
    if kind != "tfds" or name not in TFDS:
        return None
    sizes, classes = TFDS[name]
    counts = [_part(split, sizes) for split in splits.split("+")]
    return None if None in counts else Outline(sum(counts), classes)


def _part(split: str, sizes: dict[str, int]) -> int | None:
    """Examples in "train", "train[:99%]" or "train[51200:]"; None if there is no such split."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None or match[1] not in sizes:
        return None
    size = sizes[match[1]]

    def bound(end: str | None, default: int) -> int:
        if not end:
            return default
        value = round(size * int(end[:-1]) / 100) if end.endswith("%") else int(end)
        return min(max(value + size if value < 0 else value, 0), size)

    return max(bound(match[3], size) - bound(match[2], 0), 0)
