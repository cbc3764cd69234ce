"""A part of a source, as experiments with few labels take it."""

import collections

from vision_jax.data.fingerprints import fingerprint
from vision_jax.errors import ConfigError


class Share:
    """The first `percent` of each class of a source that tells its `labels`, rounded, and at least one of each."""

    def __init__(self, source, percent: int):
        if not 1 <= percent <= 100:
            raise ConfigError(f"a share of a data source is 1 to 100 percent of each class, got [:{percent}%]")
        self.source, self.num_classes, self.class_names = source, source.num_classes, source.class_names
        totals = collections.Counter(source.labels)
        taken: collections.Counter = collections.Counter()
        self._ids = []
        for id, label in enumerate(source.labels):
            if taken[label] < max(round(totals[label] * percent / 100), 1):
                taken[label] += 1
                self._ids.append(id)

    def fingerprint(self) -> dict[str, str]:
        whole = fingerprint(self.source)
        return whole.get("parts", {}) | {"share": f"{len(self)} of {whole['examples']} examples ({whole['digest']})"}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict:
        return self.source[self._ids[index]]
