"""ViT in Google's .npz: vision_transformer's from 2020 on, and big_vision's.

Names follow Flax's automatic ones, which changed: numbers counted over all of a block's modules, then over those of a
class. Positions have had three places, and layers may be stacked along a leading axis.
"""

from collections.abc import Mapping
from typing import NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.models.registry import create_model
from vision_jax.models.vit import ViT
from vision_jax.weights.families.description import (
    HALF,
    Description,
    LeftOpen,
    left_over,
    pair,
    preprocessing,
    shape_of,
)
from vision_jax.weights.families.vit_timm import fit_positions
from vision_jax.weights.mapping import Entry, Layout

_PREFIXES = ("", "opt/target/", "params/", "params/img/", "img/")
_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding", "pos_embedding")
_STACKED = "Transformer/encoderblock"


class Names(NamedTuple):
    """What differs from file to file."""

    prefix: str = ""
    positions: str = _POSITIONS[0]
    attention: str = "MultiHeadDotProductAttention_1"
    norm2: str = "LayerNorm_2"
    mlp: str = "MlpBlock_3"
    is_stacked: bool = False
    map_head: str = "MAPHead_0/"


def describe_official(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """A .npz of vision_transformer or big_vision; of a two-tower model of big_vision, the image tower. No config."""
    given, names = dict(given or {}), names_in(tensors)
    prefix, block = names.prefix, _blocks(names, 0)
    mlp, query = f"{block}/{names.mlp}/Dense_0/kernel", f"{block}/{names.attention}/query/kernel"
    layers = int(names.is_stacked)
    *patch, _, width = shape_of(tensors, f"{prefix}embedding/kernel", 4)
    has_cls, has_map = f"{prefix}cls" in tensors, f"{prefix}{names.map_head}probe" in tensors
    fields = {
        "num_classes": _outputs(tensors, f"{prefix}head/kernel") or 0,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "width": width,
        "depth": _depth(tensors, names),
        "num_heads": shape_of(tensors, query, 3 + layers)[-2],
        "mlp_dim": shape_of(tensors, mlp, 2 + layers)[-1],
        "stem": _stem_of(tensors, prefix),
        "pool": "map" if has_map else "token" if has_cls else "gap",
        "cls_token": has_cls,
        "representation_size": _outputs(tensors, f"{prefix}pre_logits/kernel"),
    }
    size = given.pop("image_size", None)
    if f"{prefix}{names.positions}" in tensors:
        rows, sizes = shape_of(tensors, f"{prefix}{names.positions}", 3)[1], [pair(size)] if size else []
        image_size, before = fit_positions(rows, tuple(patch), fields["stem"], (int(has_cls), 0), sizes, bool(size))
        fields["posemb_cls"] = bool(before)
    elif size is None:
        raise LeftOpen("image_size", "the file has no positions, which would show its image size; pass image_size")
    else:
        image_size, fields["posemb"], fields["posemb_cls"] = pair(size), "sincos2d_bv", False
    fields |= given
    table = table_official(create_model("vit", **fields), names)
    ignored = left_over(tensors, table, f"{prefix}Transformer/", lambda name: _is_beside(name, prefix))
    return Description("vit", fields, image_size, preprocessing(HALF, "bilinear", "squash"), table, ignored)


def names_in(tensors: Mapping) -> Names:
    """Raises ConfigError where the file is no ViT of Google's."""
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embedding/kernel" in tensors), None)
    if prefix is None:
        raise ConfigError("the file has no 'embedding/kernel', as every ViT of Google has")
    is_stacked = any(name.startswith(f"{prefix}{_STACKED}/") for name in tensors)
    block = f"{prefix}{_STACKED}" if is_stacked else f"{prefix}{_STACKED}_0"
    is_new = f"{block}/MlpBlock_0/Dense_0/kernel" in tensors
    return Names(
        prefix,
        next((name for name in _POSITIONS if f"{prefix}{name}" in tensors), _POSITIONS[0]),
        *(("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0") if is_new else Names()[2:5]),
        is_stacked,
        "" if f"{prefix}probe" in tensors else "MAPHead_0/",
    )


def table_official(model: ViT, names: Names | None = None) -> list[Entry]:
    """Names as vision_transformer writes them, unless `names` says otherwise."""
    names = names or Names()
    prefix, table = names.prefix, []
    if model.has_cls:
        table.append(Entry("cls_token", f"{prefix}cls"))
    if model.posemb == "learn_1d":
        table.append(Entry("pos_embed", f"{prefix}{names.positions}"))
    if model.stem is not None:
        table += _stem_table(model.stem, prefix)
    table += _dense("patch_embed", f"{prefix}embedding")
    heads = _head_layouts(model.num_heads)
    for i in range(model.depth):
        ours, theirs = f"blocks_{i}", _blocks(names, i)
        block = _norm(f"{ours}/norm1", f"{theirs}/LayerNorm_0") + _norm(f"{ours}/norm2", f"{theirs}/{names.norm2}")
        block += _attention(f"{ours}/attn", f"{theirs}/{names.attention}", heads)
        block += _mlp(f"{ours}/mlp", f"{theirs}/{names.mlp}")
        table += [_layer(entry, i, model.depth) for entry in block] if names.is_stacked else block
    table += _norm("norm", f"{prefix}Transformer/encoder_norm")
    if model.pool == "map":
        theirs = f"{prefix}{names.map_head}"
        table += [Entry("map_head/probe", f"{theirs}probe"), *_norm("map_head/norm", f"{theirs}LayerNorm_0")]
        table += _attention("map_head/attn", f"{theirs}MultiHeadDotProductAttention_0", heads)
        table += _mlp("map_head/mlp", f"{theirs}MlpBlock_0")
    if model.representation_size:
        table += _dense("pre_logits", f"{prefix}pre_logits")
    return table + (_dense("head", f"{prefix}head") if model.num_classes else [])


def _blocks(names: Names, i: int) -> str:
    return f"{names.prefix}{_STACKED}" + ("" if names.is_stacked else f"_{i}")


def _depth(tensors: Mapping, names: Names) -> int:
    if names.is_stacked:
        depth = shape_of(tensors, f"{_blocks(names, 0)}/LayerNorm_0/scale", 2)[0]
    else:
        start = f"{names.prefix}{_STACKED}_"
        depth = sum(name.startswith(start) and name.endswith("/LayerNorm_0/scale") for name in tensors)
    if depth > limits.MODEL_DEPTH:
        raise ConfigError(f"the file has {depth:,} blocks, more than the {limits.MODEL_DEPTH:,} of any model")
    return depth


def _outputs(tensors: Mapping, kernel: str) -> int | None:
    return shape_of(tensors, kernel, 2)[-1] if kernel in tensors else None


def _stem_of(tensors: Mapping, prefix: str) -> tuple[int, ...] | None:
    if f"{prefix}conv_root/kernel" not in tensors:
        return None
    stem: list[int] = []
    while f"{prefix}block{len(stem) + 1}/unit1/conv1/kernel" in tensors:
        stem.append(sum(f"{prefix}block{len(stem) + 1}/unit{u}/conv1/kernel" in tensors for u in range(1, 100)))
    return tuple(stem)


def _is_beside(name: str, prefix: str) -> bool:
    """Whether a name is the optimizer's, or of the other tower of an image-text model."""
    if prefix == "opt/target/":
        return not name.startswith(prefix)
    root = prefix.removesuffix("img/")
    return root != prefix and name.removeprefix(root).partition("/")[0] in ("txt", "t", "b")


def _norm(ours: str, theirs: str, layout: str = "same") -> list[Entry]:
    return [Entry(f"{ours}/{name}", f"{theirs}/{name}", layout) for name in ("scale", "bias")]


def _dense(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}/{name}", f"{theirs}/{name}") for name in ("kernel", "bias")]


def _mlp(ours: str, theirs: str) -> list[Entry]:
    return _dense(f"{ours}/fc1", f"{theirs}/Dense_0") + _dense(f"{ours}/fc2", f"{theirs}/Dense_1")


def _attention(ours: str, theirs: str, heads: Mapping[str, Layout]) -> list[Entry]:
    table = [
        Entry(f"{ours}/out/kernel", f"{theirs}/out/kernel", heads["out"]),
        Entry(f"{ours}/out/bias", f"{theirs}/out/bias"),
    ]
    for part in ("query", "key", "value"):
        table += [Entry(f"{ours}/{part}/{name}", f"{theirs}/{part}/{name}", heads[name]) for name in ("kernel", "bias")]
    return table


def _head_layouts(count: int) -> dict[str, Layout]:
    """Theirs have axes of their own for heads: kernels (D, h, d), biases (h, d), and (h, d, D) of `out`."""

    def joined(axis: int):
        def join(x):
            if x.shape[axis] != count:
                raise ValueError(f"{x.shape[axis]} heads, not {count}")
            return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

        def split(x):
            return x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])

        return Layout(join, split)

    return {"kernel": joined(1), "bias": joined(0), "out": joined(0)}


def _layer(entry: Entry, i: int, depth: int) -> Entry:
    """The entry as layer `i` of a tensor with all layers along a leading axis."""
    layout = entry.layout
    if isinstance(layout, str):
        return entry._replace(layout=Layout(lambda x: x[0], lambda x: x[None]), part=(i, depth))
    stacked = Layout(lambda x: layout.to_ours(x[0]), lambda x: layout.to_theirs(x)[None])
    return entry._replace(layout=stacked, part=(i, depth))


def _stem_table(stem: tuple[int, ...], prefix: str) -> list[Entry]:
    """Group norms' scales and biases may be (C,) or (1, 1, 1, C)."""
    table = [Entry("backbone/conv_root/kernel", f"{prefix}conv_root/kernel")]
    table += _norm("backbone/gn_root", f"{prefix}gn_root", "row")
    for s, count in enumerate(stem):
        for u in range(count):
            ours, theirs = f"backbone/stages_{s}/units_{u}", f"{prefix}block{s + 1}/unit{u + 1}"
            for name in ("1", "2", "3", *(["_proj"] if u == 0 else [])):  # the first changes the number of features
                table.append(Entry(f"{ours}/conv{name}/kernel", f"{theirs}/conv{name}/kernel"))
                table += _norm(f"{ours}/gn{name}", f"{theirs}/gn{name}", "row")
    return table
