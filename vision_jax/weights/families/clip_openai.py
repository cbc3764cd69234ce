"""CLIP in OpenAI's names, which open_clip shares, with a ViT or a ModifiedResNet; and what all formats of CLIP share."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.vit import ViT
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.description import (
    Description,
    LeftOpen,
    count_blocks,
    left_over,
    pair,
    preprocessing,
    refuse,
    shape_of,
    whole,
)
from vision_jax.weights.families.entries import conv, dense, norm
from vision_jax.weights.mapping import Entry

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
VIT = {"patch_bias": False, "pre_norm": True, "weight_init": "clip"}  # how CLIP's image tower differs from Google's ViT
TEXT_EPS = 1e-5
_PARTS = ("query", "key", "value")
_TOWERS = ("visual.", "transformer.", "text.", "vision_model.", "text_model.")
_SUPERFLUOUS = ("input_resolution", "context_length", "vocab_size", "position_ids", "attn_mask", "num_batches_tracked")


def describe_official(config: None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """OpenAI's .pt, an archive of TorchScript, or its state_dict: always QuickGELU, and heads of 64."""
    given = dict(given or {})
    fields, image_size = read_fields(tensors, "", given, given.pop("image_size", None))
    fields["text_act"] = "quick_gelu"
    if fields["image_tower"] == "vit":
        fields["image"]["act"] = "quick_gelu"
    return described(fields, image_size, given, preprocessing(OPENAI), table_official, tensors)


def read_fields(
    tensors: Mapping, text: str, given: Mapping, size: Any = None, head_width: int = 64
) -> tuple[dict[str, Any], Pair]:
    """All fields but activations that names and shapes show, and the image size, a square's unless `size` says it.

    Heads have `head_width` unless `given` says their number; text: what stands before the text tower's names.
    """
    for needed in (f"{text}token_embedding.weight", f"{text}text_projection", "logit_scale"):
        if needed not in tensors:
            raise ConfigError(f"the file is no CLIP with OpenAI's text transformer: it lacks '{needed}'")
    blocks = f"{text}transformer.resblocks."
    vocab_size, width = shape_of(tensors, f"{text}token_embedding.weight", 2)
    fields = {
        "embed_dim": tensors[f"{text}text_projection"].shape[1],
        "text_width": width,
        "text_depth": count_blocks(tensors, blocks),
        "text_num_heads": given.get("text_num_heads") or _heads(width, 64, "text_num_heads"),
        "text_mlp_dim": tensors[f"{blocks}0.mlp.c_fc.weight"].shape[0],
        "vocab_size": vocab_size,
        "context_length": tensors[f"{text}positional_embedding"].shape[0],
        "logit_bias_init": -10.0 if "logit_bias" in tensors else None,
    }
    heads = (given.get("image") or {}).get("num_heads")
    if "visual.class_embedding" in tensors:
        image, image_size = _read_vit(tensors, heads, size, head_width)
        return {**fields, "image_tower": "vit", "image": image}, image_size
    if "visual.attnpool.q_proj.weight" in tensors:
        image, image_size = _read_resnet(tensors, heads, size, head_width)
        projected = {"image_projection_bias": True}
        return {**fields, **projected, "image_tower": "modified_resnet", "image": image}, image_size
    towers = sorted({".".join(name.split(".")[:2]) for name in tensors if name.startswith("visual.")})
    raise ConfigError(f"the file's image tower is neither OpenAI's ViT nor its ResNet: it has {', '.join(towers[:5])}")


def _read_vit(tensors: Mapping, heads: int | None, size: Any, head_width: int) -> tuple[dict[str, Any], Pair]:
    width, _, *patch = tensors["visual.conv1.weight"].shape
    image = {
        **VIT,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "width": width,
        "depth": count_blocks(tensors, "visual.transformer.resblocks."),
        "num_heads": heads or _heads(width, head_width, "image={'num_heads': ...}"),
        "mlp_dim": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "pre_norm": "visual.ln_pre.weight" in tensors,
        "norm_eps": 1e-5,
    }
    return image, _image_size(tensors["visual.positional_embedding"].shape[0] - 1, patch, size)


def _read_resnet(tensors: Mapping, heads: int | None, size: Any, head_width: int) -> tuple[dict[str, Any], Pair]:
    stages = [f"visual.layer{s}." for s in range(1, 5)]
    width = 2 * tensors["visual.conv1.weight"].shape[0]
    features = tensors["visual.attnpool.q_proj.weight"].shape[0]
    blocks = tuple(count_blocks(tensors, stage) for stage in stages)
    image = {
        "blocks": blocks,
        "width": width,
        "num_heads": heads or _heads(features, head_width, "image={'num_heads': ...}"),
    }
    return image, _image_size(tensors["visual.attnpool.positional_embedding"].shape[0] - 1, (32, 32), size)


def _heads(width: int, head_width: int, field: str) -> int:
    whole({"head_width": head_width}, "head_width")
    if width % head_width:
        raise LeftOpen(field, f"how many heads there are of width {width} cannot be seen in the file; pass {field}")
    return width // head_width


def _image_size(places: int, stride, size: Any) -> Pair:
    """The square image, or that of `size`, of so many places. Raises ConfigError where there is none."""
    side = math.isqrt(places)
    image_size = (side * stride[0], side * stride[1]) if size is None else pair(size)
    if (image_size[0] // stride[0]) * (image_size[1] // stride[1]) != places:
        found = f"the file's {places} image positions are those of no square image"
        if size is None:
            raise LeftOpen("image_size", f"{found}; pass image_size=(height, width)")
        raise ConfigError(f"{found}, and not of image_size={image_size}")
    return image_size


def described(
    fields: dict, image_size: Pair, given: Mapping, how: dict, table: Callable[[CLIP], list[Entry]], tensors: Mapping
) -> Description:
    """The Description of `fields` under what is `given`, among whose fields `image` has those of the image tower."""
    given = {name: value for name, value in given.items() if name != "image_size"}
    fields = {**fields, **given, "image": {**fields["image"], **(given.get("image") or {})}}
    entries = table(CLIP(**fields))
    ignored = left_over(tensors, entries, _TOWERS, lambda name: name.endswith(_SUPERFLUOUS))
    return Description("clip", fields, image_size, how, entries, ignored)


def tower_of(model: CLIP, format: str, allowed: tuple[type, ...] = (ViT,)) -> ViT | ModifiedResNet:
    """The image tower. Raises ConfigError where a file of CLIP has no place for it."""
    tower = model.image_module(parent=None)
    if not isinstance(tower, allowed):
        known = " and ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{format} has CLIP with the image towers {known}, not with '{model.image_tower}'")
    is_vit = isinstance(tower, ViT)
    refuse(model, f"{format}'s CLIP", {"image_projection_bias": (not is_vit,)})
    if is_vit:
        refuse(
            tower,
            f"{format}'s CLIP",
            {
                "pool": ("token", "gap"),
                "has_cls": (True,),
                "stem": (None,),
                "num_registers": (0,),
                "posemb": ("learn_1d",),
                "posemb_cls": (True,),
                "patch_bias": (False,),
                "qkv_bias": (True,),
                "layer_scale_init": (None,),
                "representation_size": (None,),
            },
        )
    return tower


def check_text_eps(eps: float) -> None:
    if eps != TEXT_EPS:
        raise ConfigError(f"the text tower's norms have epsilon {eps}, but CLIP's text tower here has {TEXT_EPS}")


def check_end(name: str, token: int, vocab_size: int, alike: tuple[int, ...] = ()) -> None:
    """Raises ConfigError where another token than the one of the largest id stands for a text."""
    if token not in (vocab_size - 1, *alike):
        raise ConfigError(
            f"the config's {name}={token} reads a text at a token that is not the last of the vocabulary's {vocab_size}, "
            "and CLIP here reads it at the token of the largest id"
        )


def table_official(model: CLIP, text: str = "") -> list[Entry]:
    """text: what stands before the text tower's names, "text." in open_clip's CustomTextCLIP."""
    tower = tower_of(model, "OpenAI", (ViT, ModifiedResNet))
    table = [
        Entry("text/token_embedding", f"{text}token_embedding.weight"),
        Entry("text/pos_embed", f"{text}positional_embedding"),
        *norm("text/norm", f"{text}ln_final"),
        Entry("text_projection/kernel", f"{text}text_projection"),
        *end_entries(model),
    ]
    for i in range(model.text_depth):
        table += _block(f"text/blocks_{i}", f"{text}transformer.resblocks.{i}")
    return table + (_vit_table(tower) if isinstance(tower, ViT) else _resnet_table(tower))


def constants_official(model: CLIP, image_size: Pair) -> dict[str, np.ndarray]:
    """The numbers that OpenAI keeps among its tensors, of which its loader tells nothing.

    Raises ConfigError naming the field of a model that OpenAI's CLIP, all of which its loader reads off shapes, cannot be.
    """
    tower = tower_of(model, "OpenAI", (ViT, ModifiedResNet))
    refuse(
        model,
        "OpenAI's CLIP",
        {
            "text_act": ("quick_gelu",),
            "text_causal": (True,),
            "text_pool": ("end",),
            "text_num_heads": (model.text_width // 64,),
            "text_mlp_dim": (None, 4 * model.text_width),
            "logit_bias_init": (None,),
        },
    )
    if isinstance(tower, ViT):
        allowed = {"act": ("quick_gelu",), "pre_norm": (True,), "pool": ("token",), "norm_eps": (1e-5,)}
        allowed |= {"num_heads": (tower.width // 64,), "mlp_dim": (4 * tower.width,), "norm_pooled": (False,)}
    else:
        allowed = {"num_heads": (None, tower.features // 64)}
    refuse(tower, "OpenAI's CLIP", allowed)
    if image_size[0] != image_size[1]:
        raise ConfigError(f"OpenAI's CLIP has square images, not {image_size}")
    numbers = {
        "input_resolution": image_size[0],
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
    }
    return {name: np.array(value, np.int64) for name, value in numbers.items()}


def end_entries(model: CLIP) -> list[Entry]:
    """The scale of the logits, and their bias where the model has one."""
    names = ["logit_scale"] if model.logit_bias_init is None else ["logit_scale", "logit_bias"]
    return [Entry(name, name, "scalar") for name in names]


def _vit_table(tower: ViT) -> list[Entry]:
    table = [
        Entry("image/cls_token", "visual.class_embedding", "vector"),
        *conv("image/patch_embed", "visual.conv1", bias=False),
        Entry("image/pos_embed", "visual.positional_embedding", "table"),
        *(norm("image/norm_pre", "visual.ln_pre") if tower.pre_norm else []),
        *norm("image/fc_norm" if tower.norm_pooled else "image/norm", "visual.ln_post"),
        Entry("image_projection/kernel", "visual.proj"),
    ]
    for i in range(tower.depth):
        table += _block(f"image/blocks_{i}", f"visual.transformer.resblocks.{i}")
    return table


def _block(ours: str, theirs: str) -> list[Entry]:
    table = norm(f"{ours}/norm1", f"{theirs}.ln_1") + norm(f"{ours}/norm2", f"{theirs}.ln_2")
    for i, part in enumerate(_PARTS):
        table.append(Entry(f"{ours}/attn/{part}/kernel", f"{theirs}.attn.in_proj_weight", "linear", (i, 3)))
        table.append(Entry(f"{ours}/attn/{part}/bias", f"{theirs}.attn.in_proj_bias", part=(i, 3)))
    table += dense(f"{ours}/attn/out", f"{theirs}.attn.out_proj")
    return table + dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc") + dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj")


def _resnet_table(tower: ModifiedResNet) -> list[Entry]:
    table = [Entry("image/attn_pool/pos_embed", "visual.attnpool.positional_embedding")]
    for part in _PARTS:
        table += dense(f"image/attn_pool/{part}", f"visual.attnpool.{part[0]}_proj")
    table += dense("image_projection", "visual.attnpool.c_proj")
    for i in (1, 2, 3):
        table += _conv_norm("image", str(i), f"visual.conv{i}", f"visual.bn{i}")
    for s, count in enumerate(tower.blocks):
        for u in range(count):
            ours, theirs = f"image/stages_{s}/units_{u}", f"visual.layer{s + 1}.{u}"
            for i in (1, 2, 3):
                table += _conv_norm(ours, str(i), f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            if u == 0:  # the first changes the number of features
                table += _conv_norm(ours, "_proj", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    return table


def _conv_norm(where: str, name: str, their_conv: str, their_norm: str) -> list[Entry]:
    statistics = [
        Entry(f"{where}/bn{name}/{ours}", f"{their_norm}.running_{ours}", collection="batch_stats")
        for ours in ("mean", "var")
    ]
    return [*conv(f"{where}/conv{name}", their_conv, bias=False), *norm(f"{where}/bn{name}", their_norm), *statistics]
