"""Swin and SwinV2 in transformers (model_type "swin" and "swinv2"); timm's and microsoft's formats are in swin_timm."""

from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.swin import Swin
from vision_jax.models.window_attention import TABLE
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.description import (
    ACTIVATIONS_OF_TRANSFORMERS,
    IMAGENET,
    Description,
    activation,
    left_over,
    pair,
    preprocessing,
    read_config,
    real,
    refuse,
    whole,
)
from vision_jax.weights.families.entries import conv, dense, norm
from vision_jax.weights.families.swin_layout import (
    NORM_EPS,
    Names,
    backbone,
    fitted_windows,
    is_padded,
    one_if_equal,
    position_bias,
    pretrained_windows,
    shape_fields,
    stage_maps,
)
from vision_jax.weights.mapping import Entry

# SwinConfig's and Swinv2Config's defaults, for config.json written by hand or by old versions.
DEFAULTS = {
    "image_size": 224,
    "window_size": 7,
    "mlp_ratio": 4.0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False,
    "pretrained_window_sizes": (0, 0, 0, 0),
}
# Names in a block, as in all files that save_pretrained writes, and as in the modules of transformers 5 (V1 alone).
_CLASSIC = {
    **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
    **{"out": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense"},
    TABLE: f"attention.self.{TABLE}",
}
_RECENT = {
    **{name: f"attention.{name[0]}_proj" for name in ("query", "key", "value")},
    **{"out": "attention.o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    TABLE: f"attention.relative_position_bias.{TABLE}",
}


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """SwinForImageClassification, Swinv2ForImageClassification, SwinModel or Swinv2Model: their pooled features."""
    config, given = read_config(config, DEFAULTS), dict(given or {})
    if config["layer_norm_eps"] != NORM_EPS:
        raise ConfigError(
            f"config.json has layer_norm_eps={config['layer_norm_eps']}; but some norms of transformers' Swin have "
            f"{NORM_EPS} all the same, and here all norms have one"
        )
    if config["use_absolute_embeddings"]:
        raise ConfigError("config.json has use_absolute_embeddings=true, but Swin has no absolute positions here")
    kind = config["model_type"]
    version = {"swin": 1, "swinv2": 2}[kind]
    root = f"{kind}." if any(name.startswith(f"{kind}.") for name in tensors) else ""
    stages = f"{root}encoder.layers."
    is_recent = f"{stages}0.blocks.0.{_RECENT['query']}.weight" in tensors
    block = _RECENT if is_recent else _CLASSIC
    names = Names(
        patch=f"{root}embeddings.patch_embeddings.projection.weight",
        stages=stages,
        head="classifier.weight",
        bias_table=block[TABLE],
        scale="attention.self.logit_scale",
        qkv_bias=(f"{block['query']}.bias",),
        fc1=f"{block['fc1']}.weight",
    )
    image_size = pair(given.pop("image_size", config["image_size"]))
    fields = {
        **shape_fields(tensors, names, version, real(config, "mlp_ratio")),
        "window": whole(config, "window_size"),
        "act": activation(config["hidden_act"]),
        "mask_padding": False,
        **given,
    }
    if version == 2 and "pretrained_window" not in given:
        windows = [window for window, _ in fitted_windows(Swin(**fields), image_size)]
        fields["pretrained_window"] = pretrained_windows(config["pretrained_window_sizes"], windows)
    table = table_transformers(Swin(**fields), root, is_recent)
    ignored = left_over(tensors, table, stages, lambda name: name.endswith(("_position_index", "_coords_table")))
    return Description("swin", fields, image_size, preprocessing(IMAGENET, resize="squash"), table, ignored)


def table_transformers(model: Swin, root: str | None = None, is_recent: bool = False) -> list[Entry]:
    """Names as the models with a head have them, as SwinModel without classes; root, is_recent: of other files."""
    names = _RECENT if is_recent else _CLASSIC
    root = (f"{_kind(model)}." if model.num_classes else "") if root is None else root

    def block(ours: str, theirs: str, window: Pair) -> list[Entry]:
        table = norm(f"{ours}/norm1", f"{theirs}.layernorm_before") + norm(f"{ours}/norm2", f"{theirs}.layernorm_after")
        has_bias = {"query": model.qkv_bias, "key": model.qkv_bias and model.version == 1, "value": model.qkv_bias}
        for part in ("query", "key", "value", "out"):
            table += dense(f"{ours}/attn/{part}", f"{theirs}.{names[part]}", has_bias.get(part, True))
        for part in ("fc1", "fc2"):
            table += dense(f"{ours}/mlp/{part}", f"{theirs}.{names[part]}")
        own = f"{theirs}.attention.self"
        return table + position_bias(
            model,
            f"{ours}/attn",
            f"{theirs}.{names[TABLE]}",
            f"{own}.logit_scale",
            f"{own}.continuous_position_bias_mlp",
            window,
        )

    windows = [as_pair(model.window)] * len(model.depths)  # tables do not shrink
    return [
        *conv("patch_embed", f"{root}embeddings.patch_embeddings.projection"),
        *norm("patch_norm", f"{root}embeddings.norm"),
        *backbone(model, f"{root}encoder.layers.", block, windows, merges_after=True),
        *norm("norm", f"{root}layernorm"),
        *(dense("head", "classifier") if model.num_classes else []),
    ]


def config_transformers(model: Swin, image_size: Pair) -> dict[str, Any]:
    """config.json of SwinForImageClassification or Swinv2ForImageClassification, of SwinModel without classes.

    Raises ConfigError where transformers would give other outputs for images of `image_size` (height, width).
    """
    refuse(model, "transformers' Swin", {"features_only": (False,), "norm_eps": (NORM_EPS,)})
    window = one_if_equal(as_pair(model.window))
    fitted = fitted_windows(model, image_size)
    maps = stage_maps(model, image_size)
    problem = None
    if not isinstance(window, int):
        problem = f"no window that is not square, as {window}"
    elif model.version == 1 and any(small != (window, window) for small, _ in fitted):
        problem = f"no V1 whose window={window} is larger than a map"
    elif fitted != fitted_windows(model, image_size, "square"):
        problem = "no windows that shrink by axis (window_rule='axis')"
    elif model.mask_padding and any(map(is_padded, maps, [small for small, _ in fitted])):
        problem = "no masks for the padding of windows (mask_padding=True)"
    if problem:
        raise ConfigError(f"transformers' Swin has {problem}, for images of {image_size[0]}x{image_size[1]}")
    kind = _kind(model)
    config = {
        "model_type": kind,
        "image_size": one_if_equal(image_size),
        "patch_size": model.patch_size,
        "num_channels": 3,
        "embed_dim": model.width,
        "depths": model.depths,
        "num_heads": model.num_heads,
        "window_size": window,
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
        "hidden_act": ACTIVATIONS_OF_TRANSFORMERS[model.act],
        "layer_norm_eps": model.norm_eps,
        "use_absolute_embeddings": False,
        "dtype": "float32",
    }
    if model.version == 2:
        config["pretrained_window_sizes"] = [size or 0 for size in model.pretrained_windows]
    if not model.num_classes:
        return {**config, "architectures": [f"{kind.capitalize()}Model"]}
    labels = {str(i): f"LABEL_{i}" for i in range(model.num_classes)}
    return {
        **config,
        "architectures": [f"{kind.capitalize()}ForImageClassification"],
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
    }


def _kind(model: Swin) -> str:
    return "swin" if model.version == 1 else "swinv2"
