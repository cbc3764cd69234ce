"""What a file of weights says of its model, as every family's `describe_*` functions give it.

They take the parsed config.json or None, the file's tensors (unwrapped), and `given`: what the user says besides, fields
of `create_model` and `image_size`, which a bare file may leave open. An ambiguous file raises ConfigError that names the
field to pass; LeftOpen, which is one, where that is all it takes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.registry import create_model
from vision_jax.weights.mapping import Entry

# Preprocessing has the keys of the config's `data` section that evaluation reads.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


# transformers' names of the activations that there are here.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_tanh"),
    **{name: name for name in ("quick_gelu", "relu")},
}
ACTIVATIONS_OF_TRANSFORMERS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


class LeftOpen(ConfigError):
    """The file does not show what `field` of its model is: it must be among what is given."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


class Description(NamedTuple):
    """Everything that loading needs besides the values."""

    name: str  # of a model or a family, as `create_model` takes it
    fields: dict[str, Any]  # for `create_model`
    image_size: tuple[int, int]  # (height, width) in pixels, that of the positions in the file
    preprocessing: dict[str, Any]  # mean, std, interpolation, eval_resize, eval_crop; {} where the source does not say
    table: list[Entry]
    ignored: list[str]  # names in the file that hold nothing which the model needs

    def create_model(self, **overrides):
        return create_model(self.name, **{**self.fields, **overrides})


def preprocessing(
    mean_std: Mapping, interpolation: str = "bicubic", resize: str = "crop", crop: float = 1.0
) -> dict[str, Any]:
    """The default of a source: resize "crop" keeps the share `crop` of the short side, "squash" the whole picture.

    Raises ConfigError where no picture can be prepared so.
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


def read_config(config: Mapping | None, defaults: Mapping) -> dict[str, Any]:
    """transformers' config.json over the defaults of its class. Raises ConfigError where a source has none."""
    if config is None:
        raise ConfigError("weights of transformers need their config.json beside them")
    return {**defaults, **config}


def section(config: Mapping, name: str) -> Mapping:
    """The object of that name in a config.json; empty where it is absent or null. Raises ConfigError for anything else."""
    value = config.get(name)
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"the config has {name}={value!r}, which must be an object")
    return value or {}


def whole(config: Mapping, name: str, most: int = limits.MODEL_SIZE, least: int = 1) -> int:
    """The whole number of that name in a config.json. Raises ConfigError where it is none, or not from least to most."""
    value = config[name]
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"the config has {name}={value!r}, which must be a whole number from {least} to {most:,}")
    return value


def real(config: Mapping, name: str) -> float:
    """The number above 0 of that name in a config.json. Raises ConfigError where it is none."""
    value = config[name]
    if type(value) not in (int, float) or not 0 < value < 2**53:
        raise ConfigError(f"the config has {name}={value!r}, which must be a number above 0")
    return float(value)


def activation(name: str) -> str:
    """Our name of an activation in transformers' config.json. Raises ConfigError where there is none."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"config.json has the activation {name!r}, which is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def pair(value) -> tuple[int, int]:
    """(height, width) of a number or a sequence of two, as config.json has sizes of images and patches."""
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"a size must be a positive number, or two for (height, width), and not {value!r}")
    return sides


def shape_of(tensors: Mapping, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that the file must have, with so many axes. Raises ConfigError."""
    if name not in tensors:
        raise ConfigError(f"the file has no '{name}', as every file of this family and format has")
    shape = tensors[name].shape
    if len(shape) != rank:
        raise ConfigError(f"'{name}' has the shape {list(shape)}, not one of {rank} axes")
    return shape


def count_blocks(names, prefix: str) -> int:
    """How many numbers follow `prefix`, such as "blocks.", in the names, from 0 without a gap."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    count = len(found)
    if count > limits.MODEL_DEPTH:
        raise ConfigError(
            f"the file has {count:,} blocks under '{prefix}', more than the {limits.MODEL_DEPTH:,} of any model"
        )
    if found != {str(i) for i in range(count)}:
        raise ConfigError(f"the file has {count} blocks under '{prefix}', but not the numbers 0 to {count - 1}")
    return count


def left_over(
    tensors: Mapping, table: list[Entry], inside: str | tuple[str, ...], ignored: Callable[[str], bool]
) -> list[str]:
    """Names that the table does not use and `ignored` knows to be superfluous.

    inside: what the names of the blocks begin with. Raises ConfigError where the table does not use all of those: the
    blocks compute something else than ours.
    """
    used = {entry.theirs for entry in table}
    rest = [name for name in tensors if name not in used]
    if strange := [name for name in rest if name.startswith(inside) and not ignored(name)]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ConfigError(f"the file is of another architecture: its blocks have '{strange[0]}'{more}")
    return [name for name in rest if ignored(name)]


def refuse(model: Any, format: str, allowed: Mapping[str, tuple]) -> None:
    """Raises ConfigError naming the first of the model's fields that has none of the values which a format can say."""
    for field, values in allowed.items():
        if (value := getattr(model, field)) not in values:
            known = " or ".join(repr(known) for known in values)
            raise ConfigError(f"{format} has no model with {field}={value!r}; it can be {known}")
