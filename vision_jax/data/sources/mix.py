"""Several sources as one."""

import bisect
import itertools
from collections.abc import Sequence

from vision_jax.data.fingerprints import fingerprint
from vision_jax.errors import ConfigError


class Mix:
    """The examples of several sources, one source after the other; `weights` say how often training draws from each.

    Raises:
        ConfigError: the sources differ in their number of classes.
    """

    def __init__(self, names: Sequence[str], parts: Sequence, weights: Sequence[float]):
        for name, part in zip(names, parts, strict=True):
            if part.num_classes != parts[0].num_classes:
                raise ConfigError(
                    "mixed data sources must have the same classes: "
                    f"{names[0]!r} has {parts[0].num_classes}, {name!r} has {part.num_classes}"
                )
        self.names, self.parts = tuple(names), tuple(parts)
        self.weights = tuple(map(float, weights))
        self.offsets = tuple(itertools.accumulate(map(len, parts), initial=0))  # of each part; the last is the total
        self.num_classes = parts[0].num_classes
        self.class_names = parts[0].class_names

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
