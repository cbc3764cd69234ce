"""Loads models and variables from the files of other projects and of this one."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.errors import ConfigError
from vision_jax.files import printable
from vision_jax.models.inference import model_variables, variable_shapes
from vision_jax.models.swin import Swin
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.swin_layout import learned_windows
from vision_jax.weights.fitting import fit
from vision_jax.weights.plausible import described_by
from vision_jax.weights.sources import WeightsSource, open_weights

log = logging.getLogger(__name__)

# Fields that loading can change, so that their values say nothing about the file.
_WISHES = ("num_classes", "window", "pretrained_window", "features_only", "scan")


def load_pretrained(
    source: str | pathlib.Path,
    *,
    image_size: int | Pair | None = None,
    revision: str | None = None,
    checkpoint: str | int = "last",
    file: Mapping[str, Any] | None = None,
    **fields,
) -> tuple[Any, dict]:
    """(model, variables) of published or trained weights; architecture and numbers are those of the original.

    Args:
        source: an id on the Hugging Face hub or a local path. Supported are folders of transformers (ViT, Swin, Swinv2,
            ViTMAE, CLIP), timm and open_clip, Google's .npz (ViT, AugReg, big_vision), the .pth of facebookresearch's
            MAE and of microsoft's Swin, OpenAI's CLIP, and work folders of this project or a checkpoint in them.
        image_size: pixels per side, or (height, width), of the images that the model will take; by default those that
            the source is for. Tables of positions are resampled as the source's own project does.
        revision: a branch, tag or commit of a model on the hub.
        checkpoint: which one in a work folder: "last", "best" or a step.
        file: what a bare file does not say about itself, if it differs from what is wanted: fields, and `image_size`.
        fields: of the model, as for `create_model`: those that the source leaves open, and those to change. Another
            `num_classes` gives a new head of zeros; another `window` resamples Swin's tables; name="vit" takes the
            encoder from an MAE's file.

    Returns:
        The flax.linen.Module, and its variables as float32 arrays on the default device.

    Raises:
        ConfigError: (one line) there is no such source, it is damaged or not supported, or leaves open what must be
            passed.
    """
    _, model, variables = open_pretrained(
        source, image_size=image_size, revision=revision, checkpoint=checkpoint, file=file, **fields
    )
    return model, variables


def class_names(
    source: str | pathlib.Path, *, revision: str | None = None, file: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """The names of a source's outputs, in order; () if it does not say. Arguments are as in `load_pretrained`."""
    return open_weights(source, file, revision).class_names


def open_pretrained(
    source: str | pathlib.Path, *, image_size=None, revision=None, checkpoint="last", file=None, **fields
) -> tuple[WeightsSource, Any, dict]:
    """The opened source, and the model and variables that `load_pretrained` returns."""
    wishes = {name: fields[name] for name in _WISHES if name in fields}
    given = {name: value for name, value in fields.items() if name not in wishes} | dict(file or {})
    fields.pop("name", None)
    if image_size is not None:
        wishes["image_size"] = image_size
    opened = open_weights(source, given, revision, checkpoint, wishes)
    return opened, *_load(opened, image_size, fields)


def _load(source: WeightsSource, image_size: int | Pair | None, fields: dict) -> tuple[Any, dict]:
    with described_by(source.path):
        to_size = as_pair(image_size or source.image_size)
        model = source.create_model(**_with_learned_windows(source, to_size, fields))
        shapes = variable_shapes(model, to_size)
        is_the_files = model == source.create_model() and to_size == source.image_size
    variables, report = source.read(jnp.asarray, shapes if is_the_files else None)
    try:
        fitted = fit(variables.pop("params"), source.image_size, model, to_size, shapes["params"], source.resampling)
    except ConfigError as error:
        raise ConfigError(f"'{source.path}': {error}") from error
    if not fields and (missing := [*fitted.renewed, *fitted.new]):
        raise ConfigError(f"'{source.path}': it does not hold '{missing[0]}' of the model that it describes")
    params = jax.tree.map(jnp.asarray, fitted.params) | _initialised(model, to_size, fitted.new)
    others = {name: tree for name, tree in variables.items() if name in shapes}
    _tell(source, "resized", fitted.resized, logging.INFO)
    _tell(source, "newly initialised", [*fitted.renewed, *fitted.new])
    _tell(source, "not used", [*fitted.unused, *report.unexpected])
    return model, {"params": unflatten_dict(params, sep="/"), **others}


def _tell(source: WeightsSource, what: str, names: list[str], level: int = logging.WARNING) -> None:
    if names:
        some = ", ".join(map(printable, names[:10])) + (", ..." if len(names) > 10 else "")
        log.log(level, "'%s': %d %s: %s", source.path, len(names), what, some)


def _with_learned_windows(source: WeightsSource, image_size: Pair, fields: dict) -> dict:
    """`fields` that make Swin V2, given other windows, still measure offsets by those in which it learned them."""
    model = source.create_model(**fields)
    if isinstance(model, Swin) and model.version == 2 and "pretrained_window" not in fields:
        learned = learned_windows(source.create_model(), source.image_size)
        if learned != learned_windows(model, image_size):
            fields["pretrained_window"] = learned
    return fields


def _initialised(model, image_size: Pair, names: list[str]) -> dict[str, jax.Array]:
    """The parameters at these paths as `model.init` makes them; nothing else is computed."""
    if not names:
        return {}

    def init():
        flat = flatten_dict(model_variables(model, image_size)["params"], sep="/")
        return {name: flat[name] for name in names}

    return jax.jit(init)()
