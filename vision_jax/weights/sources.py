"""Recognises a source of weights by its files: a run of this project, or one of the formats in `families/`."""

import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vision_jax.config import to_dict
from vision_jax.errors import ConfigError
from vision_jax.files import printable, read_object
from vision_jax.models.inference import variable_shapes
from vision_jax.models.registry import create_model
from vision_jax.models.stacking import unstack_blocks
from vision_jax.ops.windows import Pair
from vision_jax.weights import work_folder
from vision_jax.weights.families import clip, clip_openai, mae, open_clip, swin, swin_timm, vit, vit_google, vit_timm
from vision_jax.weights.families.description import Description, LeftOpen, pair, preprocessing, section
from vision_jax.weights.families.processors import read_processor
from vision_jax.weights.hub import fetch
from vision_jax.weights.mapping import Report, import_variables
from vision_jax.weights.plausible import check_blocks, check_model, described_by
from vision_jax.weights.readers import WEIGHT_FILES, open_tensors, unwrap
from vision_jax.weights.tensors import Tensors
from vision_jax.weights.work_folder import Outputs

log = logging.getLogger(__name__)

_PROCESSOR = "preprocessor_config.json"
_VOCABULARIES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_CONFIGS = ("config.json", "open_clip_config.json")
_BESIDE = (*_CONFIGS, _PROCESSOR, *(name for names in _VOCABULARIES for name in names))
# How each project resamples a table of absolute positions; see ops.resampling.resize_grid.
_RESAMPLING = {
    "google": "bilinear",
    **dict.fromkeys(("transformers", "mae", "microsoft"), "bicubic"),
    **dict.fromkeys(("timm", "openai", "open_clip"), "bicubic_antialias"),
}
_OF_TRANSFORMERS = {
    "vit": vit.describe_transformers,
    "vit_mae": mae.describe_transformers,
    "swin": swin.describe_transformers,
    "swinv2": swin.describe_transformers,
    "clip": clip.describe_transformers,
}
_WITH_ENCODER = (mae.describe_transformers, mae.describe_official)  # what takes name="vit"


class WeightsSource(NamedTuple):
    """The description of a model in files; only names and shapes have been read."""

    path: pathlib.Path
    name: str  # of a model or a family, as `create_model` takes it
    fields: dict[str, Any]  # for `create_model`
    image_size: Pair  # (height, width) in pixels that the parameters are for
    preprocessing: dict[str, Any]  # keys of the config's `data` section; {} if the source does not say
    outputs: Outputs  # of its classifier, or of whatever comes last
    tokenizer: str  # as the config's data.tokenizer; "" if the source has none
    resampling: str  # how tables of positions are resampled to another image size
    # Float32 variables with unrolled layers; as_array=: see import_variables; shapes=: their shapes, if known.
    read: Callable[..., tuple[dict, Report]]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.outputs.names

    def create_model(self, **overrides):
        """Mappings among the overrides, such as fields of an image tower, are merged over the source's."""
        fields = dict(self.fields)
        for name, value in overrides.items():
            fields[name] = {**(fields.get(name) or {}), **value} if isinstance(value, Mapping) else value
        return create_model(self.name, **fields)


def open_weights(
    source: str | pathlib.Path,
    given: Mapping | None = None,
    revision: str | None = None,
    checkpoint: str | int = "last",
    wishes: Mapping | None = None,
) -> WeightsSource:
    """The source that a path or a hub id names: see `pretrained.load_pretrained`.

    Args:
        given: facts about the file's model that the file leaves open: fields (with unrolled layers), `image_size`, and
            `name`, "vit" for an MAE's encoder alone.
        wishes: how the loaded model should be; a wish counts as given if the file leaves exactly that field open.
            `name`, "vit" for an MAE's encoder alone, counts if the file has one.

    Raises:
        ConfigError: one line that begins with the source, and says what is missing, damaged, unknown or left open.
    """
    path = fetch(source, [WEIGHT_FILES], _BESIDE, revision)
    with described_by(path):
        opened = _opened(path, checkpoint, dict(given or {}), dict(wishes or {}))
        check_model(opened.create_model(), opened.image_size)
        return opened


def _opened(path: pathlib.Path, checkpoint: str | int, given: dict, wishes: dict) -> WeightsSource:
    if work_folder.is_work_folder(path):
        run, name = _open_run(path, str(checkpoint)), given.get("name")
        if name not in (None, run.name):
            raise ConfigError(f"it is a run of '{run.name}', and no {name!r}")
        return run
    return _open_foreign(unwrap(open_tensors(path)), given, wishes)


def _open_run(path: pathlib.Path, checkpoint: str) -> WeightsSource:
    folder = work_folder.locate(path, checkpoint)
    config = work_folder.read_run_config(folder.parent.parent)
    data, fields = config.data, to_dict(config.model)
    fields.pop("scan", None)

    def read(as_array: Callable = np.asarray, shapes: Mapping | None = None) -> tuple[dict, Report]:
        variables = jax.tree.map(as_array, work_folder.load_variables(folder))
        return {name: unstack_blocks(tree) for name, tree in variables.items()}, Report([], [])

    return WeightsSource(
        path=folder,
        name=fields.pop("name"),
        fields=fields,
        image_size=pair(data.image_size),
        preprocessing=preprocessing(data, data.interpolation, data.eval_resize, data.eval_crop),
        outputs=work_folder.outputs_of(folder.parent.parent),
        tokenizer=data.tokenizer if config.task == "contrastive" else "",
        resampling="bilinear",
        read=read,
    )


def _open_foreign(tensors: Tensors, given: dict, wishes: dict) -> WeightsSource:
    folder, config = tensors.path.parent, _config_beside(tensors.path)
    format, describe = _format_of(tensors, config)
    if describe in _WITH_ENCODER and wishes.get("name"):
        given.setdefault("name", wishes["name"])
    name = given.get("name") if describe in _WITH_ENCODER else given.pop("name", None)
    described = _describe(describe, config, tensors, given, wishes)
    if name not in (None, described.name):
        raise ConfigError(f"it holds a '{described.name}', and no {name!r}")
    check_blocks(described.create_model())
    preprocessing = described.preprocessing
    if format == "transformers":
        preprocessing = _of_processor(folder / _PROCESSOR, preprocessing)
    vocabulary = any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES)

    def read(as_array: Callable = np.asarray, shapes: Mapping | None = None) -> tuple[dict, Report]:
        if shapes is None:
            with described_by(tensors.path):
                shapes = variable_shapes(described.create_model(), described.image_size)
        try:
            return import_variables(tensors, described.names, shapes, as_array)
        except ConfigError as error:
            raise ConfigError(f"'{tensors.path}': {printable(error, 1000)}") from error

    return WeightsSource(
        path=tensors.path,
        name=described.name,
        fields=described.fields,
        image_size=described.image_size,
        preprocessing=preprocessing,
        outputs=_outputs(config or {}, described),
        tokenizer=(f"clip:{folder}" if vocabulary else "clip") if described.name == "clip" else "",
        resampling=_RESAMPLING[format],
        read=read,
    )


def _describe(describe: Callable, config: dict | None, tensors: Tensors, given: dict, wishes: dict) -> Description:
    try:
        return describe(config, tensors, given)
    except LeftOpen as gap:
        if gap.field not in wishes or gap.field in given:
            raise
        return _describe(describe, config, tensors, {**given, gap.field: wishes[gap.field]}, wishes)


def _of_processor(path: pathlib.Path, defaults: dict[str, Any]) -> dict[str, Any]:
    """transformers' preprocessing; {} with a warning if its file asks for something that is not supported."""
    try:
        read = (
            read_processor(read_object(path, f"{path.name} beside it"), defaults) if os.path.exists(path) else defaults
        )
    except ConfigError as error:
        log.warning("'%s': the way its pictures are prepared is not supported: %s", path.parent, printable(error, 1000))
        return {}
    return {**read, "crop_rounding": "down", "exif_orientation": True}  # as in its pipelines


def _config_beside(path: pathlib.Path) -> dict | None:
    """The config next to a file that has the usual name of weights in such a folder; None if the file is bare."""
    config = path.parent / _CONFIGS[path.name.startswith("open_clip")]
    has_config = path.name in WEIGHT_FILES and os.path.exists(config)
    return read_object(config, f"{config.name} beside it") if has_config else None


def _format_of(tensors: Tensors, config: dict | None) -> tuple[str, Callable[..., Description]]:
    """(the project that defines the format, the function in families/ that describes it)."""
    if config is None:
        return _format_of_names(tensors)
    if "model_cfg" in config or "vision_cfg" in config:
        return "open_clip", open_clip.describe_open_clip
    if kind := config.get("model_type"):
        if not isinstance(kind, str) or kind not in _OF_TRANSFORMERS:
            raise ConfigError(
                f"config.json has model_type={kind!r}; known of transformers are {', '.join(_OF_TRANSFORMERS)}"
            )
        return "transformers", _OF_TRANSFORMERS[kind]
    if "architecture" in config:
        if not any(name.startswith("patch_embed.") for name in tensors):
            raise ConfigError(f"timm's {config['architecture']!r} is neither a ViT nor a Swin")
        return "timm", swin_timm.describe_timm if _is_swin(tensors) else vit_timm.describe_timm
    raise ConfigError("config.json is neither transformers' (it has no model_type) nor timm's (nor architecture)")


def _format_of_names(tensors: Tensors) -> tuple[str, Callable[..., Description]]:
    if any(name.startswith("visual.") for name in tensors):
        is_openai = "input_resolution" in tensors
        return ("openai", clip_openai.describe_official) if is_openai else ("open_clip", open_clip.describe_open_clip)
    if _is_swin(tensors):
        is_timm = "head.fc.weight" in tensors or (
            "layers.1.downsample.norm.weight" in tensors and "layers.0.downsample.norm.weight" not in tensors
        )
        return ("timm", swin_timm.describe_timm) if is_timm else ("microsoft", swin_timm.describe_official)
    if "patch_embed.proj.weight" in tensors:
        # MAE's fine-tuned models have timm's names and no config, but the arguments of their training.
        is_mae = mae.is_official(tensors) or "args.global_pool" in tensors.metadata
        return ("mae", mae.describe_official) if is_mae else ("timm", vit_timm.describe_timm)
    if any(name.endswith("embedding/kernel") for name in tensors):
        return "google", vit_google.describe_official
    if any("embeddings." in name for name in tensors):
        raise ConfigError("weights of transformers need their config.json beside them, in a folder of their own")
    some = ", ".join(f"'{printable(name)}'" for name in list(tensors)[:3])
    raise ConfigError(
        f"its names ({some}, ...) are of no known family and format: ViT, MAE, Swin and CLIP of transformers, timm, "
        "open_clip and their authors"
    )


def _is_swin(tensors: Mapping) -> bool:
    return any(name.startswith("layers.0.blocks.0.") for name in tensors)


def _outputs(config: Mapping, described: Description) -> Outputs:
    """Outputs as transformers' image classification pipeline reads them: by `problem_type`; a single one is a yes or no."""
    names, problem = _class_names(config, described), config.get("problem_type")
    if problem == "regression":
        return Outputs(names, "identity")
    if problem == "multi_label_classification" or described.fields.get("num_classes") == 1:
        return Outputs(names, "sigmoid", exclusive=False)
    return Outputs(names)


def _class_names(config: Mapping, described: Description) -> tuple[str, ...]:
    """Class names from transformers' id2label, unless it only counts, or from timm's label_names."""
    count = described.fields.get("num_classes") or 0
    names: Sequence = ()
    if labels := section(config, "id2label"):
        names = [labels.get(str(i), "") for i in range(min(count, len(labels) + 1))]
    names = names or section(config, "pretrained_cfg").get("label_names") or config.get("label_names") or ()
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError("the config's names of classes (id2label, label_names) must be texts")
    is_counted = all(name in ("", f"LABEL_{i}") for i, name in enumerate(names))
    return () if is_counted or len(names) != count else tuple(names)
