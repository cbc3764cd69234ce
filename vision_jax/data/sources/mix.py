"""Several sources as one."""

import bisect
import itertools
from collections.abc import Sequence

from vision_jax.data.classes import labels_of, names_of, renumbered
from vision_jax.data.fingerprints import fingerprint
from vision_jax.errors import ConfigError


class Mix:
    """The examples of several sources, source after source; `weights` say how often training draws from each.

    The classes are those of the (first) source with the most classes; the others' are matched to them by name.

    Raises:
        ConfigError: a source has a class that this one lacks or, if either has no names, another number of classes.
    """

    def __init__(self, names: Sequence[str], parts: Sequence, weights: Sequence[float]):
        whole_name, whole = max(
            zip(names, parts, strict=True), key=lambda pair: (pair[1].num_classes, bool(names_of(pair[1])))
        )
        for name, part in zip(names, parts, strict=True):
            if part.num_classes != whole.num_classes and not (names_of(part) and names_of(whole)):
                raise ConfigError(
                    "mixed data sources must have the same classes: "
                    f"{whole_name!r} has {whole.num_classes}, {name!r} has {part.num_classes}"
                )
        whose = f"{whole_name!r}, which has most classes of the mix,"
        self.parts = tuple(
            renumbered(part, names_of(whole), f"data source {name!r}", whose)
            for name, part in zip(names, parts, strict=True)
        )
        self.names, self.weights = tuple(names), tuple(map(float, weights))
        self.offsets = tuple(itertools.accumulate(map(len, parts), initial=0))  # per part; the last is the total
        self.num_classes, self.class_names, self.target_names = labels_of(whole)
        if other := [name for name, part in zip(names, parts, strict=True) if labels_of(part)[2] != self.target_names]:
            raise ConfigError(
                f"mixed data sources must have the same targets: {whole_name!r} has others than {other[0]!r}"
            )

    def fingerprint(self) -> dict[str, str]:
        whole = [fingerprint(part) for part in self.parts]
        return {
            f"{name} ({i})": f"{each['examples']} examples ({each['digest']})"
            for i, (name, each) in enumerate(zip(self.names, whole, strict=True))
        }

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self.offsets, index) - 1
        return self.parts[part][index - self.offsets[part]]
