"""A source that a user provides."""

from vision_jax.data.classes import Labels
from vision_jax.data.fingerprints import parts_of
from vision_jax.errors import ConfigError


class Own:
    """The examples of a user's source, with defaults for what it may leave out: names, classes, labels."""

    def __init__(self, source, spec: str):
        if lacks := [name for name in ("__len__", "__getitem__") if not hasattr(source, name)]:
            raise ConfigError(f"data source {spec!r} is a {type(source).__name__} without {lacks[0]}")
        self.source, self.spec = source, spec
        names = tuple(map(str, getattr(source, "class_names", ())))
        targets = tuple(map(str, getattr(source, "target_names", ())))
        self.num_classes, self.class_names, self.target_names = Labels(
            getattr(source, "num_classes", len(names)), names, targets
        )

    @property
    def labels(self) -> list[int]:
        return list(getattr(self.source, "labels", ()))

    def fingerprint(self) -> dict[str, str]:
        return parts_of(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = self.source[index]
        if not isinstance(example, dict) or "image" not in example:
            raise ConfigError(f"data source {self.spec!r}: example {index} is no dictionary with an 'image'")
        return {"name": f"{self.spec}[{index}]", **example}
