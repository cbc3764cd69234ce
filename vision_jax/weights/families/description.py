"""What a weights file says about its model, as every family's `describe_*` functions return it.

They take the parsed config.json or None, the file's tensors (unwrapped), and `given`: what the user adds, fields of
`create_model` and `image_size`, which a bare file may leave open. An ambiguous file raises a ConfigError that names the
field to pass; its subclass LeftOpen, if passing that field is enough.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.registry import create_model
from vision_jax.weights.mapping import Names, shape_of

# Preprocessing has the keys of the config's `data` section that evaluation reads.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class LeftOpen(ConfigError):
    """The file does not show its model's `field`, so the caller must give it."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


class Description(NamedTuple):
    """Everything that loading needs apart from the values."""

    name: str  # of a model or a family, as `create_model` takes it
    fields: dict[str, Any]  # for `create_model`
    image_size: tuple[int, int]  # (height, width) in pixels that the file's positions are for
    preprocessing: dict[str, Any]  # mean, std, interpolation, eval_resize, eval_crop; {} if the source does not say
    names: Names

    def create_model(self, **overrides):
        return create_model(self.name, **{**self.fields, **overrides})


def preprocessing(
    mean_std: Mapping, interpolation: str = "bicubic", resize: str = "crop", crop: float = 1.0
) -> dict[str, Any]:
    """A source's default: resize "crop" keeps the fraction `crop` of the short side, "squash" the whole picture.

    Raises ConfigError if no picture can be prepared this way.
    """
    found = {}
    for name in ("mean", "std"):
        value = mean_std[name]
        numbers = value if isinstance(value, list | tuple) and len(value) == 3 else ("none",)
        if not all(type(x) in (int, float) and abs(x) < 1e6 and (name == "mean" or x > 0) for x in numbers):
            raise ConfigError(f"pictures have {name}={value!r}, which must be three numbers, one a channel")
        found[name] = tuple(map(float, numbers))
    if type(crop) not in (int, float) or not limits.CROP <= crop <= 1:
        raise ConfigError(f"pictures are cropped to the share {crop!r}, which must be a number from {limits.CROP} to 1")
    return {**found, "interpolation": interpolation, "eval_resize": resize, "eval_crop": float(crop)}


def section(config: Mapping, name: str) -> Mapping:
    """The object `name` in a config.json; empty if it is absent or null. Raises ConfigError for anything else."""
    value = config.get(name)
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"the config has {name}={value!r}, which must be an object")
    return value or {}


def whole(config: Mapping, name: str, most: int = limits.MODEL_SIZE, least: int = 1) -> int:
    """The integer `name` in a config.json. Raises ConfigError if it is not one, or not between `least` and `most`."""
    value = config[name]
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"the config has {name}={value!r}, which must be a whole number from {least} to {most:,}")
    return value


def real(config: Mapping, name: str) -> float:
    """The number `name` in a config.json. Raises ConfigError if it is not a number above 0."""
    value = config[name]
    if type(value) not in (int, float) or not 0 < value < 2**53:
        raise ConfigError(f"the config has {name}={value!r}, which must be a number above 0")
    return float(value)


def pair(value) -> tuple[int, int]:
    """(height, width) from a number or a sequence of two, as config.json gives image and patch sizes."""
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"a size must be a positive number, or two for (height, width), and not {value!r}")
    return sides


def one_if_equal(sides) -> int | tuple[int, ...]:
    """One number if the sides are equal, as `create_model` and config.json take it; else the sides."""
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


class Shapes(NamedTuple):
    """The shapes of a file's tensors, looked up by the paths of our parameters."""

    tensors: Mapping
    names: Names

    def has(self, path: str) -> bool:
        return self.names.of(path) in self.tensors

    def of(self, path: str, rank: int) -> tuple[int, ...]:
        """The shape of a parameter with `rank` axes. Raises ConfigError if the file does not have it."""
        if (name := self.names.of(path)) not in self.tensors:
            raise ConfigError(f"the file has no '{name}', as every file of this family and format has")
        shape = shape_of(self.tensors[name].shape, self.names.layout(path, rank))
        if shape is None or len(shape) != rank:
            raise ConfigError(f"'{name}' has the shape {list(self.tensors[name].shape)}, not one of {rank} axes")
        return shape

    def outputs(self, layer: str) -> int | None:
        """The number of outputs of a dense layer; None if the file does not have it."""
        return self.of(f"{layer}/kernel", 2)[1] if self.has(f"{layer}/kernel") else None

    def count(self, path: str) -> int:
        """How many numbers follow `path`, such as "blocks_", from 0 without a gap."""
        return count_blocks(self.tensors, self.names.of(path))


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many numbers follow `prefix`, such as "blocks.", in the names, from 0 without a gap."""
    found = {re.split(r"[./]", name[len(prefix) :], maxsplit=1)[0] for name in names if name.startswith(prefix)}
    count = len(found)
    if count > limits.MODEL_DEPTH:
        raise ConfigError(
            f"the file has {count:,} blocks under '{prefix}', more than the {limits.MODEL_DEPTH:,} of any model"
        )
    if found != {str(i) for i in range(count)}:
        raise ConfigError(f"the file has {count} blocks under '{prefix}', but not the numbers 0 to {count - 1}")
    return count


def heads_of(width: int, field: str, each: int = 64) -> int:
    """The number of heads that are `each` wide. Raises LeftOpen, which asks for `field`, if they do not divide `width`."""
    if width % whole({"head_width": each}, "head_width"):
        raise LeftOpen(field, f"how many heads there are of width {width} cannot be seen in the file; pass {field}")
    return width // each


def ratio_of(width: int, hidden: int) -> float:
    """The ratio for which `int(width * ratio)` is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def refuse(model: Any, format: str, **allowed: tuple) -> None:
    """Raises ConfigError naming the first of the model's fields whose value the format does not support."""
    for field, values in allowed.items():
        if (value := getattr(model, field)) not in values:
            known = " or ".join(repr(known) for known in values)
            raise ConfigError(f"{format} has no model with {field}={value!r}; it can be {known}")
