"""What a config leaves to the weights that training starts from: its model or fields of it, and how images are prepared.

With `config.init_from`, whatever neither the config nor the name of its model says comes from the source. The resolved
config includes it, and config.json keeps what the source said, so that the source is not needed again.
"""

import copy
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vision_jax import parts
from vision_jax.config import Section, set_key, to_dict
from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.mae import MAE
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.registry import create_model, named_fields
from vision_jax.models.swin import Swin
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair
from vision_jax.schema import OF_SOURCE, REQUIRED
from vision_jax.training.initialization import open_init_source, split_tower
from vision_jax.values import shown
from vision_jax.weights.families.description import LeftOpen
from vision_jax.weights.families.mae import encoder_of
from vision_jax.weights.families.swin_layout import learned_windows
from vision_jax.weights.fitting import UNSEEN
from vision_jax.weights.sources import WeightsSource, open_weights
from vision_jax.weights.work_folder import read_run_record

# Fields that belong to a training run or to a head, which another one does not inherit.
_OF_TRAINING = {
    *("num_classes", "head_init", "head_bias_init", "head_batch_norm", "representation_size"),
    *("weight_init", "features_only"),
    *("dropout_rate", "attention_dropout_rate", "drop_path_rate", "scan", "remat", "attention_impl", "dtype"),
}
# Fields that must match for any parameter to fit.
_SHAPES = ("patch_size", "width", "depth", "depths", "mlp_dim", "mlp_ratio", "stem", "blocks", "version")
_OF_DATA = ("mean", "std", "interpolation", "eval_resize", "eval_crop")
_FAMILIES = (ViT, Swin, ModifiedResNet)  # their parameters are unrelated to each other


class Origin(NamedTuple):
    """What a source says about itself, as config.json keeps it."""

    name: str  # of the model, as `create_model` takes it
    fields: dict[str, Any]
    data: dict[str, Any]  # keys of the config's `data` section


def read_origin(config) -> Origin | None:
    """What the source of `config.init_from` says; None if there is none.

    Raises ConfigError if it cannot be read, does not say what the config leaves open, or is required but missing.
    """
    spec, name = config.init_from, config.model.name
    if spec == REQUIRED or (name == OF_SOURCE and not spec):
        raise ConfigError(
            "this config starts from trained weights, so it needs --config.init_from=SOURCE: a work folder, a file or folder"
            " of weights, or an id of the hub such as google/vit-base-patch16-224"
            + ("" if name == OF_SOURCE else " (--config.init_from= without one trains from scratch)")
        )
    if not spec:
        return None
    try:
        source = _open(config)
    except ConfigError as error:
        if not isinstance(gap := error.__cause__, LeftOpen):
            raise
        if ":" in name:  # the module itself says it, once it is created
            return None
        section = "data" if gap.field == "image_size" else "model"
        raise ConfigError(f"config.init_from={spec!r}: {gap} as --config.{section}.{gap.field}=VALUE") from error
    data = {key: source.preprocessing[key] for key in _OF_DATA if key in source.preprocessing}
    height, width = source.image_size
    data["image_size"] = height if height == width else (height, width)
    return Origin(source.name, source.fields, {} if split_tower(spec)[0] == "text" else data)


def _open(config) -> WeightsSource:
    name = config.model.name
    if name != OF_SOURCE and ":" not in name:
        return open_init_source(config.init_from, _model_of(config), config.data.image_size)[1]
    encoder_alone = name == OF_SOURCE and config.task != "masked_autoencoding"
    said = {**config.model.explicit, "name": "vit" if encoder_alone else None}
    if "image_size" in config.data.explicit:
        said["image_size"] = config.data.image_size
    return open_weights(split_tower(config.init_from)[1], wishes=said)


def recorded_origin(workdir: pathlib.Path) -> Origin | None:
    """The origin of the run in a work folder; None if it has none, or began before origins were recorded."""
    path = workdir / "config.json"
    origin = read_run_record(workdir)["derived"].get("origin") if path.is_file() else None
    if origin is not None and (not isinstance(origin, dict) or origin.keys() != set(Origin._fields)):
        raise ConfigError(f"{path}: derived.origin must be an object of {', '.join(Origin._fields)}")
    return Origin(**origin) if origin else None


def complete(config, origin: Origin | None) -> tuple[Section, dict[str, Any]]:
    """A copy of `config` with everything that it leaves to the source, and just those values, by dotted key.

    Raises ConfigError listing all that keeps the source's parameters from fitting the config's model, with ways to fix it.
    """
    config, taken = copy.deepcopy(config), {}
    if origin is None:
        if config.model.name == OF_SOURCE:
            raise ConfigError(f"config.model.name={OF_SOURCE!r}: config.json does not say what the source's model was")
        return config, taken

    def take(key: str, value: Any) -> None:
        set_key(config, key, value)
        taken[key] = value

    if config.model.name == OF_SOURCE:
        name, fields = serving(origin, config.task)
        config.model.name = taken["model.name"] = name
        for field, value in fields.items():
            if field not in config.model and field not in _OF_TRAINING:
                take(f"model.{field}", value)
    for key, value in origin.data.items():
        if key not in config.data.explicit:
            take(f"data.{key}", value)
    mismatches = {}
    for key, said, theirs, ours in _compared(config, origin):
        if type(theirs) is not type(ours) and isinstance(theirs, _FAMILIES) and isinstance(ours, _FAMILIES):
            raise ConfigError(
                f"config.init_from={config.init_from!r} holds a {type(theirs).__name__}, and config.{key}name="
                f"{config.model.name!r} is a {type(ours).__name__}; --config.model.name={OF_SOURCE} takes the source's own"
            )
        for field, have, want in _differences(theirs, ours):
            if field not in said:
                take(f"{key}{field}", have)
            elif field in UNSEEN or field in _SHAPES:
                mismatches[f"{key}{field}"] = have, want
    if mismatches:
        raise ConfigError(_told(config.init_from, mismatches))
    _take_windows(config, origin, take)
    return config, taken


def serving(origin: Origin, task: str) -> tuple[str, dict[str, Any]]:
    """Name and fields of the part of the source's model that serves a task: for a CLIP the image tower, for an MAE the
    encoder, whose fixed positions are then learned, as in MAE's fine-tuning."""
    model = create_model(origin.name, **origin.fields)
    if isinstance(model, CLIP) and task != "contrastive":
        return model.image_tower, dict(model.image)
    if isinstance(model, MAE) and task != "masked_autoencoding":
        encoder = encoder_of(model)
        fields = {name: getattr(encoder, name) for name in parts.fields_of(ViT)}
        return "vit", fields | {"posemb": "learn_sincos2d"}
    return origin.name, origin.fields


def _compared(config, origin: Origin) -> Iterator[tuple[str, set[str], Any, Any]]:
    """(key, fields that are given, the source's module, ours) for each module whose parameters come from the source."""
    if ":" in origin.name + config.model.name:
        return
    tower, _ = split_tower(config.init_from)
    ours, whole = _model_of(config), create_model(origin.name, **origin.fields)
    name, fields = serving(origin, config.task if tower == "" else "")
    theirs = create_model(name, **fields)
    if not isinstance(ours, CLIP):
        yield "model.", _said(config.model), theirs, ours
        return
    if tower != "text":
        image = whole.image_module(parent=None) if isinstance(whole, CLIP) else theirs
        yield "model.image.", {*named_fields(ours.image_tower), *ours.image}, image, ours.image_module(parent=None)
    if tower != "image":
        yield "model.", _said(config.model), whole, ours


def _said(model: Section) -> set[str]:
    """The fields given by the config or by the name of its model."""
    return {*named_fields(model.name), *model}


def _model_of(config):
    fields = to_dict(config.model)
    return create_model(fields.pop("name"), **fields)


def _differences(theirs, ours) -> Iterator[tuple[str, Any, Any]]:
    """(field, theirs, ours) for the fields that can be compared."""
    alike = type(theirs) is type(ours) and not isinstance(ours, CLIP)
    for field in parts.fields_of(type(ours)) if alike else UNSEEN:
        have, want = (getattr(model, field, None) for model in (theirs, ours))
        if field not in _OF_TRAINING and (alike or None not in (have, want)) and _plain(have) != _plain(want):
            yield field, have, want


def _plain(value: Any) -> Any:
    """A pair for a number of pixels or a pair of them, so that both compare."""
    return as_pair(value) if type(value) is int else tuple(value) if isinstance(value, list) else value


def _told(spec: str, mismatches: Mapping[str, tuple[Any, Any]]) -> str:
    differ = ", ".join(f"{key}={shown(want)} is {shown(have)} there" for key, (have, want) in mismatches.items())
    flags = " ".join(
        f"--config.{key}={shlex.quote(str(have).replace(' ', ''))}" for key, (have, _) in mismatches.items()
    )
    return f"config.init_from={spec!r} holds another model: {differ}; {flags} would take it as it is"


def _take_windows(config, origin: Origin, take) -> None:
    """Swin V2 with other windows still measures offsets relative to the windows it was trained with."""
    if ":" in origin.name + config.model.name or "pretrained_window" in _said(config.model):
        return
    theirs, ours = create_model(origin.name, **origin.fields), _model_of(config)
    if isinstance(theirs, Swin) and isinstance(ours, Swin) and theirs.version == ours.version == 2:
        learned = learned_windows(theirs, as_pair(origin.data["image_size"]))
        if learned != learned_windows(ours, as_pair(config.data.image_size)):
            take("model.pretrained_window", learned)
