"""Writes models and variables as files that other projects load."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.inference import variable_shapes
from vision_jax.models.mae import MAE
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.stacking import unstack_blocks
from vision_jax.models.swin import Swin
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families import clip, clip_openai, mae, open_clip, swin, swin_timm, vit, vit_timm
from vision_jax.weights.families.processors import write_processor
from vision_jax.weights.families.vit_shapes import fit_positions
from vision_jax.weights.formats import check_format
from vision_jax.weights.mapping import Names, export_variables
from vision_jax.weights.preprocessing import Preprocessing
from vision_jax.weights.safetensors import write_safetensors
from vision_jax.weights.torch_writer import write_torch

_WEIGHTS = {"open_clip": "open_clip_model.safetensors", "openai": "model.pt"}
_CONFIGS = {"open_clip": "open_clip_config.json"}


class Export(NamedTuple):
    """Functions in `families/` of a model and its image size; they raise ConfigError for what a format cannot express."""

    config: Callable[..., dict[str, Any]] | None  # takes `preprocessing` too, if takes_preprocessing
    names: Callable[..., Names]
    constants: Callable[..., dict[str, np.ndarray]] = lambda model, image_size: {}
    takes_preprocessing: bool = False


_EXPORTS = {
    ("hf", ViT): Export(vit.config_transformers, vit.names_of, vit.constants_transformers),
    ("hf", MAE): Export(mae.config_transformers, mae.names_of, mae.constants_transformers),
    ("hf", Swin): Export(swin.config_transformers, swin.names_of),
    ("hf", CLIP): Export(clip.config_transformers, clip.names_of),
    ("timm", ViT): Export(vit_timm.config_timm, vit_timm.names_of, vit_timm.constants_timm, True),
    ("timm", Swin): Export(swin_timm.config_timm, swin_timm.names_of, takes_preprocessing=True),
    ("open_clip", CLIP): Export(open_clip.config_open_clip, clip_openai.names_of, takes_preprocessing=True),
    ("openai", CLIP): Export(None, clip_openai.names_of, clip_openai.constants_official),
}


def save_pretrained(
    folder: str | pathlib.Path,
    model,
    variables: Mapping,
    format: str = "hf",
    *,
    preprocessing: Preprocessing | None = None,
    image_size: int | Pair | None = None,
    class_names: Sequence[str] = (),
    multi_label: bool = False,
) -> None:
    """Writes a folder that another project loads as its own; the model gives the same outputs there.

    Args:
        folder: created if it does not exist.
        format: "hf", for transformers; "timm", which takes an MAE's encoder, or a CLIP's image tower with the projection
            as its head; "open_clip", for a CLIP; or "openai", for a CLIP: the file model.pt that `clip.load` reads.
        preprocessing: how pictures are prepared, as `vj.preprocessing` gives it; it is written too.
        image_size: pixels per side, or (height, width), that the parameters are for; by default that of `preprocessing`,
            or the square that learned positions are for.
        class_names: names of the outputs, for transformers and timm.
        multi_label: whether several classes can be right at once; transformers' pipeline then shows them that way.

    Raises:
        ConfigError: (one line) the format has no such model or cannot express it, or the image size must be passed.
    """
    check_format(format)
    variables = {name: unstack_blocks(tree) for name, tree in variables.items()}
    model = model.clone(scan=False) if getattr(model, "scan", False) else model
    if format == "timm":
        model, variables = _image_model(model, variables)
    export = _EXPORTS.get((format, type(model)))
    if export is None:
        known = sorted({kind.__name__ for other, kind in _EXPORTS if other == format})
        raise ConfigError(f"format {format!r} has no {type(model).__name__}, only {', '.join(known)}")
    if preprocessing is not None and image_size is None:
        image_size = preprocessing.image_size
    image_size = _learned_size(model, variables["params"]) if image_size is None else as_pair(image_size)
    settings = vars(preprocessing) if preprocessing else None

    folder = pathlib.Path(folder).expanduser()
    jsons = {}
    if class_names and not export.config:
        raise ConfigError(f"format {format!r} has no place for class_names")
    if export.config:
        said = (settings,) if export.takes_preprocessing else ()
        jsons[_CONFIGS.get(format, "config.json")] = _named(export.config(model, image_size, *said), class_names)
    if format == "hf" and multi_label and "id2label" in jsons["config.json"]:
        jsons["config.json"]["problem_type"] = "multi_label_classification"
    if format == "hf" and settings:
        jsons["preprocessor_config.json"] = write_processor(settings, image_size)
    _check_shapes(model, variables, image_size)
    arrays = export_variables(variables, export.names(model, image_size)) | export.constants(model, image_size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in jsons.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write '{folder}': {error.strerror or error}") from error
    path = folder / _WEIGHTS.get(format, "model.safetensors")
    write_torch(path, arrays) if format == "openai" else write_safetensors(path, arrays, {"format": "pt"})


def _image_model(model, variables: dict) -> tuple[Any, dict]:
    """The part of a model that timm has: an MAE's encoder; a CLIP's image tower, whose head is the projection."""
    params = variables["params"]
    if isinstance(model, MAE):
        encoder = {name: tree for name, tree in params.items() if name != "decoder"}
        return mae.encoder_of(model), {"params": encoder}
    if isinstance(model, CLIP):
        head = {"bias": np.zeros(model.embed_dim, np.float32), **params["image_projection"]}
        others = {name: tree["image"] for name, tree in variables.items() if name != "params" and "image" in tree}
        tower = model.image_module(parent=None).clone(num_classes=model.embed_dim)
        return tower, {"params": {**params["image"], "head": head}, **others}
    return model, variables


def _learned_size(model, params: Mapping) -> Pair:
    """The square image that learned positions are for. Raises ConfigError if there are none, or they form no square."""
    tower, own = (model.image_module(parent=None), params["image"]) if isinstance(model, CLIP) else (model, params)
    try:
        if isinstance(tower, ViT) and "pos_embed" in own:
            return fit_positions(
                own["pos_embed"].shape[1], tower.patch, tower.stem, (int(tower.has_cls and tower.posemb_cls),)
            )[0]
        if isinstance(tower, ModifiedResNet):
            return fit_positions(own["attn_pool"]["pos_embed"].shape[-2], (32, 32), None, (1,))[0]
    except ConfigError as error:
        raise ConfigError(str(error).replace("the file's", "the model's")) from None
    raise ConfigError("the model's parameters do not show its image size; pass image_size")


def _check_shapes(model, variables: Mapping, image_size: Pair) -> None:
    """Raises ConfigError naming a variable that does not fit the model for images of `image_size`."""
    wanted, flat = (flatten_dict(dict(tree), sep="/") for tree in (variable_shapes(model, image_size), variables))
    if odd := sorted(wanted.keys() ^ flat.keys()):
        raise ConfigError(f"the model has no '{odd[0]}'" if odd[0] in flat else f"the variables lack '{odd[0]}'")
    for name, value in flat.items():
        if value.shape != wanted[name].shape:
            raise ConfigError(
                f"'{name}' is {list(value.shape)}, but the model for images of {image_size[0]}x{image_size[1]} has "
                f"{list(wanted[name].shape)}"
            )


def _named(config: dict, class_names: Sequence[str]) -> dict:
    if not class_names:
        return config
    classes = config["num_classes"] if "num_classes" in config else len(config.get("id2label", ()))
    if len(class_names) != classes:
        raise ConfigError(f"{len(class_names)} class_names do not name the model's {classes} outputs")
    if "id2label" in config:
        named = {"id2label": dict(enumerate(class_names)), "label2id": {n: i for i, n in enumerate(class_names)}}
        return config | named
    return config | {"label_names": list(class_names)}
