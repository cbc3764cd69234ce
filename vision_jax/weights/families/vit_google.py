"""ViT in Google's .npz: vision_transformer's from 2020 on, and big_vision's.

Names follow Flax's automatic ones, which changed: numbers first counted all of a block's modules, later those of one
class. Positions have been kept in three places, and layers may be stacked along a leading axis.
"""

from collections.abc import Mapping

from vision_jax.errors import ConfigError
from vision_jax.weights.families.description import HALF, Description, Shapes, preprocessing
from vision_jax.weights.families.vit_shapes import classifier_fields, read_positions
from vision_jax.weights.mapping import LAYOUTS, NOTHING, Layout, Names

_BLOCK = "Transformer/encoderblock"
_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding", "pos_embedding")
_BESIDE = r"(txt|t|b)(/|$)"  # the other tower of an image-text model, and its temperature and bias
# Where a file keeps the model, and a pattern of what is next to it: the optimizer's numbers, the other tower's.
_PREFIXES = {
    "": NOTHING,
    "opt/target/": "^(?!opt/target/)",
    "params/": NOTHING,
    "params/img/": f"^(params/)?{_BESIDE}",
    "img/": f"^{_BESIDE}",
}


def describe_official(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """A .npz of vision_transformer or big_vision (the image tower of a two-tower model). No config."""
    given, prefix = dict(given or {}), next((p for p in _PREFIXES if f"{p}embedding/kernel" in tensors), None)
    if prefix is None:
        raise ConfigError("the file has no 'embedding/kernel', as every ViT of Google has")
    is_stacked = any(name.startswith(f"{prefix}{_BLOCK}/") for name in tensors)
    rules = _rules(tensors, prefix, is_stacked)
    query = Shapes(tensors, Names(rules, (("", "same"),))).of("blocks_0/attn/query/kernel", 3 + is_stacked)
    shapes = Shapes(tensors, Names(rules, _layouts(query[-2], is_stacked)))
    fields = {**classifier_fields(shapes), "num_heads": query[-2]}
    if is_stacked:
        fields["depth"] = query[0]
    fields["pool"] = "map" if shapes.has("map_head/probe") else "token" if fields["cls_token"] else "gap"
    image_size = read_positions(shapes, fields, given, (), {"posemb": "sincos2d_bv", "posemb_cls": False})
    fields |= given
    layouts = _layouts(fields["num_heads"], is_stacked)
    names = Names(rules, layouts, (f"{prefix}Transformer/",), _PREFIXES[prefix])
    return Description("vit", fields, image_size, preprocessing(HALF, "bilinear", "squash"), names)


def _rules(tensors: Mapping, prefix: str, is_stacked: bool) -> tuple:
    block = f"{prefix}{_BLOCK}{'' if is_stacked else '_0'}"
    is_new = f"{block}/MlpBlock_0/Dense_0/kernel" in tensors
    attention, norm2, mlp = (0, 1, 0) if is_new else (1, 2, 3)
    return (
        (r"^cls_token", "cls"),
        (r"^pos_embed", next((name for name in _POSITIONS if f"{prefix}{name}" in tensors), _POSITIONS[0])),
        (r"^patch_embed", "embedding"),
        (r"^norm/", "Transformer/encoder_norm/"),
        (r"^backbone/stages_(\d+)/units_(\d+)", lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1}"),
        (r"^backbone/", ""),
        (r"^map_head/attn/", "map_head/MultiHeadDotProductAttention_0/"),
        (r"^map_head/norm/", "map_head/LayerNorm_0/"),
        (r"^map_head/mlp/", "map_head/MlpBlock_0/"),
        (r"^map_head/", "" if f"{prefix}probe" in tensors else "MAPHead_0/"),
        (r"/norm1/", "/LayerNorm_0/"),
        (r"/norm2/", f"/LayerNorm_{norm2}/"),
        (r"/attn/", f"/MultiHeadDotProductAttention_{attention}/"),
        (r"/mlp/", f"/MlpBlock_{mlp}/"),
        (r"/fc1/", "/Dense_0/"),
        (r"/fc2/", "/Dense_1/"),
        (r"^blocks_\d+", _BLOCK) if is_stacked else (r"^blocks_", f"{_BLOCK}_"),
        (r"^", prefix),
    )


def _layouts(heads: int, is_stacked: bool) -> tuple[tuple[str, str | Layout], ...]:
    """Google's layouts have a separate axis for heads: kernels (D, h, d), biases (h, d), and (h, d, D) for `out`.

    Scales and biases of group norms may be (C,) or (1, 1, 1, C).
    """

    def joined(axis: int) -> Layout:
        def join(x):
            if x.shape[axis] != heads:
                raise ValueError(f"{x.shape[axis]} heads, not {heads}")
            return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

        return Layout(join, lambda x: x.reshape(*x.shape[:axis], heads, -1, *x.shape[axis + 1 :]))

    def stacked(layout: Layout) -> Layout:
        """The layout for one layer of a tensor with all layers along a leading axis."""
        return Layout(lambda x: layout.to_ours(x[0]), lambda x: layout.to_theirs(x)[None])

    part = "/attn/(query|key|value)/"
    attention = (("/attn/out/kernel", joined(0)), (f"{part}kernel", joined(1)), (f"{part}bias", joined(0)))
    blocks = [(f"^blocks_.*{pattern}", stacked(layout)) for pattern, layout in (*attention, ("", LAYOUTS["same"]))]
    return (*(blocks if is_stacked else ()), *attention, ("/gn", "row"), ("", "same"))
