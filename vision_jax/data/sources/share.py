"""A part of a source, for experiments with few labels, or to hold some of it out."""

import collections

from vision_jax.data.classes import labels_of
from vision_jax.data.fingerprints import fingerprint
from vision_jax.errors import ConfigError


class Share:
    """The examples from `start` to `stop` percent of each class, rounded, of a source that has `labels`.

    The first example of each class is in every share that starts at 0. A source without `labels` counts as one class.
    """

    def __init__(self, source, start: int, stop: int):
        if not 0 <= start < stop <= 100:
            raise ConfigError(f"a share of a data source is [START%:STOP%] of each class, got [{start}%:{stop}%]")
        self.source, (self.num_classes, self.class_names, self.target_names) = source, labels_of(source)
        labels = list(getattr(source, "labels", ())) or [0] * len(source)
        totals, seen = collections.Counter(labels), collections.Counter()
        self._ids = []
        for id, label in enumerate(labels):
            first, end = (max(round(totals[label] * percent / 100), percent > 0) for percent in (start, stop))
            if first <= seen[label] < end:
                self._ids.append(id)
            seen[label] += 1
        if not self._ids:
            raise ConfigError(f"[{start}%:{stop}%] of {len(source)} examples of {len(totals)} classes is none")

    def fingerprint(self) -> dict[str, str]:
        whole = fingerprint(self.source)
        return whole.get("parts", {}) | {"share": f"{len(self)} of {whole['examples']} examples ({whole['digest']})"}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict:
        return self.source[self._ids[index]]
