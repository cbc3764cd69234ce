"""Matches classes by name: number 0 of one source may be number 2 of another source, a model or a run."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from vision_jax.data.fingerprints import parts_of
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable


class Labels(NamedTuple):
    """What a source says about its labels: the names of its classes, and of the numbers in `targets`."""

    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()


def labels_of(source) -> Labels:
    return Labels(source.num_classes, tuple(source.class_names), tuple(getattr(source, "target_names", ())))


class Renumbered:
    """The examples of `source`, with class i renumbered to `numbers[i]` among `class_names`."""

    def __init__(self, source, class_names: Sequence[str], numbers: Sequence[int]):
        self.source, self.numbers = source, tuple(numbers)
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self.target_names = labels_of(source).target_names

    @property
    def labels(self) -> list[int]:
        return [self.numbers[label] for label in self.source.labels]

    def fingerprint(self) -> dict[str, str]:
        return parts_of(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = dict(self.source[index])
        if "labels" in example:
            example["labels"] = tuple(self.numbers[label] for label in example["labels"])
        return {**example, "label": self.numbers[example["label"]]} if "label" in example else example


def names_of(source) -> tuple[str, ...]:
    """The names of a source's classes; () unless each has a name."""
    return tuple(source.class_names) if len(source.class_names) == source.num_classes else ()


def numbers_among(source, class_names: Sequence[str], what: str, whose: str) -> tuple[int, ...]:
    """The number among `class_names` of each class of `source`; its own number if either has no names.

    Raises:
        ConfigError: a name is not among `class_names`, or stands for two classes; in the message, `what` describes
            `source` and `whose` the owner of `class_names`.
    """
    names, class_names = names_of(source), tuple(class_names)
    if not names or not class_names or names == class_names:
        return tuple(range(source.num_classes))
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in numbers]:
        guess = did_you_mean(printable(unknown[0]), map(printable, class_names)) or "; classes are compared by name"
        raise ConfigError(f"{what} has the class {some(unknown)}, which {whose} does not know{guess}")
    counts, own = Counter(class_names), Counter(names)
    if twice := [name for name in names if counts[name] > 1 or own[name] > 1]:
        raise ConfigError(
            f"{what} cannot be compared with {whose} by the names of classes: {some(twice[:1])} stands for two of them"
        )
    return tuple(numbers[name] for name in names)


def renumbered(source, class_names: Sequence[str], what: str, whose: str):
    """`source` with the classes `class_names`, in this order; `source` itself if it has these, or if either has no names.

    Raises ConfigError as `numbers_among` does.
    """
    numbers = numbers_among(source, class_names, what, whose)
    if not class_names or names_of(source) in ((), tuple(class_names)):
        return source
    return Renumbered(source, class_names, numbers)


def continued(source, class_names: Sequence[str], what: str, whose: str):
    """`source` with its classes numbered as in a run that learns `class_names`: `renumbered`, but none may be missing.

    Raises ConfigError naming a class that was added, renamed or removed.
    """
    found = renumbered(source, class_names, what, whose)
    if lost := missing(source, class_names):
        raise ConfigError(f"{what} lacks the class {some(lost)}, which {whose} knows")
    return found


def missing(source, class_names: Sequence[str]) -> list[str]:
    """The `class_names` that `source` lacks; none if it has no names."""
    own = set(names_of(source))
    return [name for name in class_names if name not in own] if own else []


def some(names: Sequence[str]) -> str:
    """The first name, in quotes, and how many more there are."""
    return f"'{printable(names[0])}'" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
