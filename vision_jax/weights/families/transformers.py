"""What transformers' formats share: reading and writing the keys of config.json, and the names in a block."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.weights.families.description import one_if_equal, pair, whole

# transformers' names of the supported activations; the first name of each is the one that is written.
ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
ACTIVATIONS |= dict.fromkeys(("gelu_new", "gelu_fast", "gelu_python_tanh"), "gelu_tanh")
ACTIVATIONS |= {name: name for name in ("quick_gelu", "relu")}


def activation(config: Mapping, name: str) -> str:
    """Our name of an activation. Raises ConfigError if it is not supported."""
    value = config[name]
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ConfigError(f"config.json has the activation {value!r}, which is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def depth(config: Mapping, name: str) -> int:
    return whole(config, name, limits.MODEL_DEPTH, least=0)


def patch(config: Mapping, name: str) -> int | tuple[int, int]:
    return one_if_equal(pair(config[name]))


def as_is(config: Mapping, name: str) -> Any:
    return config[name]


class Key(NamedTuple):
    """Where config.json keeps a field of ours, its default there, and the function that reads it."""

    name: str
    default: Any
    read: Callable[[Mapping, str], Any] = whole


def required(config: Mapping | None) -> Mapping:
    """Raises ConfigError if a source has no config.json."""
    if config is None:
        raise ConfigError("weights of transformers need their config.json beside them")
    return config


def read_keys(config: Mapping | None, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Our fields. Raises ConfigError if a source has no config.json, or a value that the field cannot have."""
    full = {key.name: key.default for key in keys.values()} | dict(required(config))
    return {field: key.read(full, key.name) for field, key in keys.items()}


def write_keys(model: Any, keys: Mapping[str, Key]) -> dict[str, Any]:
    """The config.json keys from which `read_keys` reads a model's fields."""
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    values = {key: getattr(model, field) for field, key in keys.items()}
    return {key.name: theirs[value] if key.read is activation else value for key, value in values.items()}


def pictures(image_size: tuple[int, int]) -> dict[str, Any]:
    """What every config.json that we write says about images."""
    return {"image_size": one_if_equal(image_size), "num_channels": 3, "dtype": "float32"}


def write_head(config: Mapping, kind: str, num_classes: int) -> dict[str, Any]:
    """The config of `kind`ForImageClassification, or without classes of `kind`Model."""
    if not num_classes:
        return {**config, "architectures": [f"{kind}Model"]}
    labels = {str(i): f"LABEL_{i}" for i in range(num_classes)}
    return {
        **config,
        "architectures": [f"{kind}ForImageClassification"],
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
    }


def block_names(is_recent: bool, own: str = "attention/attention", where: str = "") -> tuple[tuple[str, str], ...]:
    """Rules for the parameters in the blocks under the pattern `where`.

    is_recent: names as in the modules of transformers 5; all published files instead keep the attention's parameters,
    except those of its output, under `own`.
    """
    names = [("norm1", "layernorm_before"), ("norm2", "layernorm_after")]
    if is_recent:
        names += [(r"attn/(q|k|v|o)(uery|ey|alue|ut)", r"attention/\2_proj")]
    else:
        names += [("attn/out", "attention/output/dense"), ("attn", own)]
        names += [("mlp/fc1", "intermediate/dense"), ("mlp/fc2", "output/dense")]
    return tuple((rf"^({where}blocks_\d+)/{ours}(?=/)", rf"\1/{theirs}") for ours, theirs in names)
