"""CLIP (ViT or ModifiedResNet) in OpenAI's names, which open_clip shares; and what all CLIP formats share."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.vit import ViT
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.description import Description, LeftOpen, Shapes, heads_of, pair, preprocessing, refuse
from vision_jax.weights.families.vit_shapes import encoder_fields
from vision_jax.weights.mapping import TORCH, Names

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
VIT = {"patch_bias": False, "pre_norm": True, "weight_init": "clip"}  # how CLIP's image tower differs from Google's ViT
TEXT_EPS = 1e-5
LAYOUTS = (("image/cls_token", "vector"), ("image/pos_embed", "table"), ("logit_(scale|bias)", "scalar"))
TOWERS = ("visual.", "transformer.", "text.", "vision_model.", "text_model.")
IGNORED = "(input_resolution|context_length|vocab_size|position_ids|attn_mask|num_batches_tracked)$"

_RESNET = (
    (r"^image/attn_pool/pos_embed", "visual/attnpool/positional_embedding"),
    (r"^image/attn_pool/(q|k|v)(uery|ey|alue)", r"visual/attnpool/\1_proj"),
    (r"^image/stages_(\d+)/units_", lambda m: f"visual/layer{int(m[1]) + 1}/"),
    (r"^image/(conv|bn)", r"visual/\1"),
    (r"/conv_proj", "/downsample/0"),
    (r"/bn_proj", "/downsample/1"),
    (r"/(mean|var)$", r"/running_\1"),
)


def names_official(tower: type = ViT, text: str = "") -> Names:
    """text: the prefix of the text tower's names, "text/" in open_clip's CustomTextCLIP."""
    is_resnet = tower is ModifiedResNet
    rules = (
        (r"^text/(token_embedding)", rf"{text}\1/weight"),
        (r"^text/pos_embed", f"{text}positional_embedding"),
        (r"^text/norm/", f"{text}ln_final/"),
        (r"^text_projection/kernel", f"{text}text_projection"),
        (r"^text/blocks_", f"{text}transformer/resblocks/"),
        (r"^image/cls_token", "visual/class_embedding"),
        (r"^image/pos_embed", "visual/positional_embedding"),
        (r"^image/patch_embed", "visual/conv1"),
        (r"^image/norm_pre", "visual/ln_pre"),
        (r"^image/(fc_)?norm/", "visual/ln_post/"),
        (r"^image/blocks_", "visual/transformer/resblocks/"),
        (r"^image_projection/", "visual/attnpool/c_proj/")
        if is_resnet
        else (r"^image_projection/kernel", "visual/proj"),
        (r"/norm(1|2)/", r"/ln_\1/"),
        (r"/attn/(query|key|value)/", r"/attn/in_proj_"),
        (r"/attn/out", "/attn/out_proj"),
        (r"/mlp/fc1", "/mlp/c_fc"),
        (r"/mlp/fc2", "/mlp/c_proj"),
        *_RESNET,
        *TORCH,
    )
    not_turned = "^text_projection/kernel" if is_resnet else "^(text|image)_projection/kernel"
    return Names(rules, (*LAYOUTS, (not_turned, "same")), TOWERS, IGNORED)


def describe_official(config: None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """OpenAI's .pt, a TorchScript archive, or its state_dict: always QuickGELU, and heads 64 wide."""
    given = dict(given or {})
    names = names_in(tensors)
    fields, image_size = read_fields(Shapes(tensors, names), given, given.pop("image_size", None))
    fields["text_act"] = "quick_gelu"
    if fields["image_tower"] == "vit":
        fields["image"]["act"] = "quick_gelu"
    return described(fields, image_size, given, preprocessing(OPENAI), names)


def names_in(tensors: Mapping) -> Names:
    """The `names_official` that fit a file."""
    is_resnet = "visual.attnpool.q_proj.weight" in tensors
    return names_official(
        ModifiedResNet if is_resnet else ViT, "text/" if "text.token_embedding.weight" in tensors else ""
    )


def read_fields(shapes: Shapes, given: Mapping, size: Any = None, head_width: int = 64) -> tuple[dict[str, Any], Pair]:
    """All fields except activations, from names and shapes, and the image size: square unless `size` gives it.

    Heads are `head_width` wide unless `given` has their number.
    """
    for needed in ("text/token_embedding", "text_projection/kernel", "logit_scale"):
        if not shapes.has(needed):
            raise ConfigError(
                f"the file is no CLIP with OpenAI's text transformer: it lacks '{shapes.names.of(needed)}'"
            )
    vocab_size, width = shapes.of("text/token_embedding", 2)
    is_vit, is_resnet = shapes.has("image/cls_token"), shapes.has("image/attn_pool/query/kernel")
    if not is_vit and not is_resnet:
        towers = sorted({".".join(name.split(".")[:2]) for name in shapes.tensors if name.startswith("visual.")})
        raise ConfigError(
            f"the file's image tower is neither OpenAI's ViT nor its ResNet: it has {', '.join(towers[:5])}"
        )
    image, features, places, stride = (_read_vit if is_vit else _read_resnet)(shapes)
    heads = (given.get("image") or {}).get("num_heads")
    image["num_heads"] = heads or heads_of(features, "image={'num_heads': ...}", head_width)
    fields = {
        "image_tower": "vit" if is_vit else "modified_resnet",
        "image": image,
        "image_projection_bias": not is_vit,
        "embed_dim": shapes.of("text_projection/kernel", 2)[1],
        "text_width": width,
        "text_depth": shapes.count("text/blocks_"),
        "text_num_heads": given.get("text_num_heads") or heads_of(width, "text_num_heads"),
        "text_mlp_dim": shapes.of("text/blocks_0/mlp/fc1/kernel", 2)[1],
        "vocab_size": vocab_size,
        "context_length": shapes.of("text/pos_embed", 2)[0],
        "logit_bias_init": -10.0 if shapes.has("logit_bias") else None,
    }
    return fields, _image_size(places, stride, size)


def _read_vit(shapes: Shapes) -> tuple[dict[str, Any], int, int, Pair]:
    """Fields, width that is split into heads, positions per image, and pixels from one position to the next."""
    image = {**VIT, **encoder_fields(shapes, "image/"), "norm_eps": 1e-5}
    return image, image["width"], shapes.of("image/pos_embed", 3)[1] - 1, as_pair(image["patch_size"])


def _read_resnet(shapes: Shapes) -> tuple[dict[str, Any], int, int, Pair]:
    """Returns the same as `_read_vit`."""
    blocks = tuple(shapes.count(f"image/stages_{s}/units_") for s in range(4))
    image = {"blocks": blocks, "width": 2 * shapes.of("image/conv1/kernel", 4)[3]}
    features = shapes.of("image/attn_pool/query/kernel", 2)[1]
    return image, features, shapes.of("image/attn_pool/pos_embed", 2)[0] - 1, (32, 32)


def _image_size(places: int, stride, size: Any) -> Pair:
    """The size of the image, square or `size`, that has `places` positions. Raises ConfigError if there is none."""
    side = math.isqrt(places)
    image_size = (side * stride[0], side * stride[1]) if size is None else pair(size)
    if (image_size[0] // stride[0]) * (image_size[1] // stride[1]) != places:
        found = f"the file's {places} image positions are those of no square image"
        if size is None:
            raise LeftOpen("image_size", f"{found}; pass image_size=(height, width)")
        raise ConfigError(f"{found}, and not of image_size={image_size}")
    return image_size


def described(fields: dict, image_size: Pair, given: Mapping, how: dict, names: Names) -> Description:
    """The Description of `fields` updated by `given`, whose `image` holds fields of the image tower."""
    given = {name: value for name, value in given.items() if name != "image_size"}
    fields = {**fields, **given, "image": {**fields["image"], **(given.get("image") or {})}}
    return Description("clip", fields, image_size, how, names)


def tower_of(model: CLIP, format: str, allowed: tuple[type, ...] = (ViT,)) -> ViT | ModifiedResNet:
    """The image tower. Raises ConfigError if a CLIP file has no place for it."""
    tower = model.image_module(parent=None)
    if not isinstance(tower, allowed):
        known = " and ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{format} has CLIP with the image towers {known}, not with '{model.image_tower}'")
    is_vit = isinstance(tower, ViT)
    refuse(model, f"{format}'s CLIP", image_projection_bias=(not is_vit,))
    if is_vit:
        refuse(
            tower,
            f"{format}'s CLIP",
            pool=("token", "gap"),
            has_cls=(True,),
            stem=(None,),
            num_registers=(0,),
            posemb=("learn_1d",),
            posemb_cls=(True,),
            patch_bias=(False,),
            qkv_bias=(True,),
            layer_scale_init=(None,),
            representation_size=(None,),
        )
    return tower


def check_text_eps(eps: float) -> None:
    if eps != TEXT_EPS:
        raise ConfigError(f"the text tower's norms have epsilon {eps}, but CLIP's text tower here has {TEXT_EPS}")


def check_end(name: str, token: int, vocab_size: int, alike: tuple[int, ...] = ()) -> None:
    """Raises ConfigError if a text's feature is read at a token other than the one with the largest id."""
    if token not in (vocab_size - 1, *alike):
        raise ConfigError(
            f"the config's {name}={token} reads a text at a token that is not the last of the vocabulary's {vocab_size}, "
            "and CLIP here reads it at the token of the largest id"
        )


def names_of(model: CLIP, image_size: Pair) -> Names:
    """Names as OpenAI writes them."""
    return names_official(type(tower_of(model, "OpenAI", (ViT, ModifiedResNet))))


def constants_official(model: CLIP, image_size: Pair) -> dict[str, np.ndarray]:
    """The numbers that OpenAI keeps among its tensors and that its loader ignores.

    Raises ConfigError naming the model's field that OpenAI's CLIP does not support: its loader reads all from shapes.
    """
    tower = tower_of(model, "OpenAI", (ViT, ModifiedResNet))
    refuse(
        model,
        "OpenAI's CLIP",
        text_act=("quick_gelu",),
        text_causal=(True,),
        text_pool=("end",),
        text_num_heads=(model.text_width // 64,),
        text_mlp_dim=(None, 4 * model.text_width),
        logit_bias_init=(None,),
    )
    if isinstance(tower, ViT):
        allowed = {"act": ("quick_gelu",), "pre_norm": (True,), "pool": ("token",), "norm_eps": (1e-5,)}
        allowed |= {"num_heads": (tower.width // 64,), "mlp_dim": (4 * tower.width,), "norm_pooled": (False,)}
    else:
        allowed = {"num_heads": (None, tower.features // 64)}
    refuse(tower, "OpenAI's CLIP", **allowed)
    if image_size[0] != image_size[1]:
        raise ConfigError(f"OpenAI's CLIP has square images, not {image_size}")
    numbers = {
        "input_resolution": image_size[0],
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
    }
    return {name: np.array(value, np.int64) for name, value in numbers.items()}
