"""Swin and SwinV2 in transformers (model_type "swin" and "swinv2"); timm's and microsoft's formats are in swin_timm."""

from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.swin import Swin
from vision_jax.models.window_attention import TABLE
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.description import (
    IMAGENET,
    Description,
    Shapes,
    one_if_equal,
    pair,
    preprocessing,
    real,
    refuse,
)
from vision_jax.weights.families.swin_layout import (
    FIRST,
    NORM_EPS,
    fitted_windows,
    is_padded,
    pretrained_windows,
    shape_fields,
    stage_maps,
    table_layouts,
)
from vision_jax.weights.families.transformers import (
    Key,
    activation,
    block_names,
    pictures,
    read_keys,
    write_head,
    write_keys,
)
from vision_jax.weights.mapping import TORCH, Names

# What shapes do not show; the defaults are those of SwinConfig and Swinv2Config.
KEYS = {
    "window": Key("window_size", 7),
    "mlp_ratio": Key("mlp_ratio", 4.0, real),
    "act": Key("hidden_act", "gelu", activation),
    "norm_eps": Key("layer_norm_eps", NORM_EPS, real),
}


def names_transformers(root: str, is_recent: bool = False) -> Names:
    """root: the prefix of all names but the head's, if a file has one. is_recent: see `block_names`."""
    own = "attention/self"
    rules = (
        (r"^patch_embed", f"{root}embeddings/patch_embeddings/projection"),
        (r"^patch_norm", f"{root}embeddings/norm"),
        (r"^norm/", f"{root}layernorm/"),
        (r"^head", "classifier"),
        (f"attn/{TABLE}", f"attention/relative_position_bias/{TABLE}" if is_recent else f"{own}/{TABLE}"),
        (r"attn/logit_scale", f"{own}/logit_scale"),
        (r"attn/cpb_mlp/hidden", f"{own}/continuous_position_bias_mlp/0"),
        (r"attn/cpb_mlp/out", f"{own}/continuous_position_bias_mlp/2"),
        *block_names(is_recent, own, r"stages_\d+/"),
        (r"^stages_", f"{root}encoder/layers/"),
        (r"/blocks_", "/blocks/"),
        *TORCH,
    )
    blocks = (f"{root}encoder/layers/".replace("/", "."),)
    return Names(rules, (("logit_scale", "heads"),), blocks, "(_position_index|_coords_table)$")


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """SwinForImageClassification, Swinv2ForImageClassification, SwinModel or Swinv2Model: their pooled features."""
    said, given = read_keys(config, KEYS), dict(given or {})
    if said["norm_eps"] != NORM_EPS:
        raise ConfigError(
            f"config.json has layer_norm_eps={said['norm_eps']}; but some norms of transformers' Swin have "
            f"{NORM_EPS} all the same, and here all norms have one"
        )
    if config.get("use_absolute_embeddings"):
        raise ConfigError("config.json has use_absolute_embeddings=true, but Swin has no absolute positions here")
    kind = config["model_type"]
    version = {"swin": 1, "swinv2": 2}[kind]
    root = f"{kind}/" if any(name.startswith(f"{kind}.") for name in tensors) else ""
    names = names_transformers(root, is_recent=True)
    if not Shapes(tensors, names).has(f"{FIRST}/attn/query/kernel"):
        names = names_transformers(root)
    image_size = pair(given.pop("image_size", config.get("image_size", 224)))
    fields = {
        **shape_fields(Shapes(tensors, names), version, said["mlp_ratio"]),
        **said,
        "mask_padding": False,
        **given,
    }
    if version == 2 and "pretrained_window" not in given:
        windows = [window for window, _ in fitted_windows(Swin(**fields), image_size)]
        fields["pretrained_window"] = pretrained_windows(config.get("pretrained_window_sizes", [0] * 4), windows)
    model = Swin(**fields)
    return Description("swin", fields, image_size, preprocessing(IMAGENET, resize="squash"), with_tables(names, model))


def with_tables(names: Names, model: Swin) -> Names:
    """Tables do not shrink."""
    return names._replace(layouts=table_layouts(model, [as_pair(model.window)] * len(model.depths)))


def names_of(model: Swin, image_size: Pair) -> Names:
    """Names as in the models with a head, or without classes as in SwinModel."""
    return with_tables(names_transformers(f"{_kind(model)}/" if model.num_classes else ""), model)


def config_transformers(model: Swin, image_size: Pair) -> dict[str, Any]:
    """config.json of SwinForImageClassification or Swinv2ForImageClassification, or without classes of SwinModel.

    Raises ConfigError if transformers would give different outputs for images of `image_size` (height, width).
    """
    refuse(model, "transformers' Swin", features_only=(False,), norm_eps=(NORM_EPS,))
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
        **write_keys(model, KEYS),
        **pictures(image_size),
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depths": model.depths,
        "num_heads": model.num_heads,
        "window_size": window,
        "qkv_bias": model.qkv_bias,
        "use_absolute_embeddings": False,
    }
    if model.version == 2:
        config["pretrained_window_sizes"] = [size or 0 for size in model.pretrained_windows]
    return write_head(config, kind.capitalize(), model.num_classes)


def _kind(model: Swin) -> str:
    return "swin" if model.version == 1 else "swinv2"
