"""Classes by their names: what one source calls 0, another, a model or a run may call 2."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from vision_jax.config import nearest
from vision_jax.data.fingerprints import parts_of
from vision_jax.errors import ConfigError
from vision_jax.files import printable


class Classes(NamedTuple):
    """The classes of a source that is not at hand, such as that of an earlier run."""

    num_classes: int
    class_names: tuple[str, ...]


class Renumbered:
    """The examples of `source`, of whose classes number i is `numbers[i]` among `class_names`."""

    def __init__(self, source, class_names: Sequence[str], numbers: Sequence[int]):
        self.source, self.numbers = source, tuple(numbers)
        self.class_names, self.num_classes = tuple(class_names), len(class_names)

    @property
    def labels(self) -> list[int]:
        return [self.numbers[label] for label in self.source.labels]

    def fingerprint(self) -> dict[str, str]:
        return parts_of(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[index]
        return {**example, "label": self.numbers[example["label"]]}


def names_of(source) -> tuple[str, ...]:
    """What the classes of a source are called; () where not each has a name."""
    return tuple(source.class_names) if len(source.class_names) == source.num_classes else ()


def numbers_among(source, class_names: Sequence[str], what: str, whose: str) -> tuple[int, ...]:
    """For each class of `source` its number among `class_names`; its own number where either has no names.

    Raises:
        ConfigError: one of the names is not among them, or stands for two classes; `what` and `whose` say in the message
            what `source` is and who knows `class_names`.
    """
    names, class_names = names_of(source), tuple(class_names)
    if not names or not class_names or names == class_names:
        return tuple(range(source.num_classes))
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in numbers]:
        guess = nearest(printable(unknown[0]), map(printable, class_names)) or "; classes are compared by name"
        raise ConfigError(f"{what} has the class {some(unknown)}, which {whose} does not know{guess}")
    counts, own = Counter(class_names), Counter(names)
    if twice := [name for name in names if counts[name] > 1 or own[name] > 1]:
        raise ConfigError(
            f"{what} cannot be compared with {whose} by the names of classes: {some(twice[:1])} stands for two of them"
        )
    return tuple(numbers[name] for name in names)


def renumbered(source, class_names: Sequence[str], what: str, whose: str):
    """`source` with just the classes `class_names`, in this order; itself where it has these, or where either has no names.

    Raises ConfigError as `numbers_among` does.
    """
    numbers = numbers_among(source, class_names, what, whose)
    if not class_names or names_of(source) in ((), tuple(class_names)):
        return source
    return Renumbered(source, class_names, numbers)


def continued(source, class_names: Sequence[str], what: str, whose: str):
    """`source` as a run that learns `class_names` numbers its classes: `renumbered`, which must lack none of them.

    Raises ConfigError naming a class that was added, renamed or removed.
    """
    found = renumbered(source, class_names, what, whose)
    if lost := missing(source, class_names):
        raise ConfigError(f"{what} lacks the class {some(lost)}, which {whose} knows")
    return found


def missing(source, class_names: Sequence[str]) -> list[str]:
    """Those of `class_names` that `source` lacks; none where it has no names."""
    own = set(names_of(source))
    return [name for name in class_names if name not in own] if own else []


def some(names: Sequence[str]) -> str:
    """The first of some names, in quotes, and how many more there are."""
    return f"'{printable(names[0])}'" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
