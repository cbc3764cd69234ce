"""CLIP in open_clip: OpenAI's names, and open_clip_config.json."""

from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.modified_resnet import ModifiedResNet
from vision_jax.models.vit import ViT
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.clip_openai import (
    OPENAI,
    TEXT_EPS,
    check_end,
    check_text_eps,
    described,
    names_in,
    read_fields,
    tower_of,
)
from vision_jax.weights.families.description import (
    Description,
    LeftOpen,
    Shapes,
    one_if_equal,
    preprocessing,
    ratio_of,
    real,
    refuse,
    section,
    whole,
)

# What a config may set for a tower; anything else is not supported.
_SHARED = {"width", "layers", "mlp_ratio", "norm_kwargs", "act_kwargs"}
_SHARED |= {"pool_type", "final_ln_after_pool", "output_tokens"}
_VISION = _SHARED | {"image_size", "head_width", "patch_size", "patch_dropout", "no_ln_pre", "pos_embed_type"}
_TEXT = _SHARED | {"context_length", "vocab_size", "heads", "no_causal_mask", "pad_id", "eos_id", "proj_type"}
_TEXT |= {"hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"}
# Fields of kinds of towers that are not supported; they have no effect unless such a tower is named.
_UNUSED = ("timm_pool", "timm_proj", "timm_drop", "hf_proj", "hf_pooler", "hf_model_pretrained", "attn_pooler_")
_RESIZE = {"shortest": "crop", "squash": "squash"}


def describe_open_clip(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """open_clip's CLIP and CustomTextCLIP: open_clip_config.json or one of its models' configs, or None for a bare file.

    A bare file does not show its activation: text_act in `given` applies to both towers, unless image={"act": ...} says
    otherwise. It is "quick_gelu" for OpenAI's weights and if a model's name ends in "-quickgelu", as the path of
    `tensors` may show.
    """
    given = dict(given or {})
    config = config or {}
    model, how = section(config, "model_cfg") if "model_cfg" in config else config, section(config, "preprocess_cfg")
    vision, text_cfg = section(model, "vision_cfg"), section(model, "text_cfg")
    for name, cfg, known in (("vision_cfg", vision, _VISION), ("text_cfg", text_cfg, _TEXT)):
        strange = [key for key, value in cfg.items() if value and key not in known and not key.startswith(_UNUSED)]
        if strange:
            raise ConfigError(
                f"the config's {name} has {strange[0]}={cfg[strange[0]]!r}, which CLIP does not have here"
            )
    if model.get("multimodal_cfg"):
        raise ConfigError("the config has multimodal_cfg: CoCa, which is not supported")
    if not config and "quickgelu" in str(getattr(tensors, "path", "")).lower():
        given.setdefault("text_act", "quick_gelu")
    if not config and "text_act" not in given:
        raise LeftOpen(
            "text_act", "a bare file of open_clip does not show its activation; pass text_act='gelu' or 'quick_gelu'"
        )
    if "text_num_heads" not in given and "heads" in text_cfg:
        given["text_num_heads"] = whole(text_cfg, "heads")
    size, names = given.pop("image_size", vision.get("image_size")), names_in(tensors)
    fields, image_size = read_fields(Shapes(tensors, names), given, size, vision.get("head_width", 64))
    fields |= {"text_act": _activation(model, text_cfg), **_text_fields(text_cfg, fields["vocab_size"])}
    if fields["image_tower"] == "vit":
        act = given.get("text_act") if not config else _activation(model, vision)
        fields["image"] |= {"act": act, **_vision_fields(vision)}
    return described(fields, image_size, given, _preprocessing(how), names)


def _activation(model: Mapping, tower: Mapping) -> str:
    arguments = section(tower, "act_kwargs")
    if not arguments:
        return "quick_gelu" if model.get("quick_gelu") else "gelu"
    if arguments != {"approximate": "tanh"} or model.get("quick_gelu"):
        raise ConfigError(
            f"the config's act_kwargs={arguments} with quick_gelu={model.get('quick_gelu', False)} are not supported"
        )
    return "gelu_tanh"


def _eps(tower: Mapping) -> float:
    arguments = section(tower, "norm_kwargs")
    if arguments.keys() - {"eps"}:
        raise ConfigError(f"the config's norm_kwargs={arguments} are not supported")
    return real({"eps": 1e-5, **arguments}, "eps")


def _vision_fields(vision: Mapping) -> dict[str, Any]:
    pool = vision.get("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise ConfigError(f"the config's vision_cfg has pool_type={pool!r}, neither 'tok' nor 'avg'")
    fields = {"norm_eps": _eps(vision)}
    if pool == "tok":
        return fields
    return {**fields, "pool": "gap", "cls_token": True, "norm_pooled": bool(vision.get("final_ln_after_pool"))}


def _text_fields(text: Mapping, vocab_size: int) -> dict[str, Any]:
    check_text_eps(_eps(text))
    pool = text.get("pool_type", "argmax")
    if pool not in ("argmax", "eos", "last") or text.get("proj_type", "linear") != "linear":
        raise ConfigError("the config's text_cfg must have pool_type 'argmax', 'eos' or 'last' and proj_type 'linear'")
    if pool == "eos":
        check_end("eos_id", text.get("eos_id", 2), vocab_size)
    return {"text_pool": "last" if pool == "last" else "end", "text_causal": not text.get("no_causal_mask")}


def _preprocessing(how: Mapping) -> dict[str, Any]:
    """Preprocessing, whose defaults are OpenAI's, as in open_clip; {} if pictures are padded to a square."""
    resize, interpolation = how.get("resize_mode", "shortest"), how.get("interpolation", "bicubic")
    if resize not in _RESIZE:
        return {}
    mean_std = {key: how.get(key, value) for key, value in OPENAI.items()}
    return preprocessing(mean_std, "bilinear" if interpolation == "bilinear" else "bicubic", _RESIZE[resize])


def config_open_clip(model: CLIP, image_size: Pair, preprocessing: Mapping | None = None) -> dict[str, Any]:
    """open_clip_config.json of a folder that `open_clip.create_model("local-dir:FOLDER")` loads.

    Raises ConfigError naming the field of a model that open_clip's CLIP cannot be.
    """
    tower = tower_of(model, "open_clip", (ViT, ModifiedResNet))
    acts = ("quick_gelu",) if model.text_act == "quick_gelu" else ("gelu", "gelu_tanh")
    refuse(model, "open_clip's CLIP", text_act=("quick_gelu", "gelu", "gelu_tanh"))
    vision = {"image_size": one_if_equal(image_size), "width": tower.width}
    if isinstance(tower, ViT):
        refuse(tower, f"open_clip's CLIP with text_act={model.text_act!r}", act=acts)
        vision |= {
            "layers": tower.depth,
            "patch_size": tower.patch_size,
            "head_width": tower.width // tower.num_heads,
            "mlp_ratio": ratio_of(tower.width, tower.mlp_dim),
            "no_ln_pre": not tower.pre_norm,
            "pool_type": "tok" if tower.pool == "token" else "avg",
            "final_ln_after_pool": tower.norm_pooled,
            "norm_kwargs": {"eps": tower.norm_eps},
            **_act_kwargs(tower.act),
        }
    else:
        if len(tower.blocks) != 4 or image_size[0] != image_size[1]:
            raise ConfigError(
                f"open_clip's ModifiedResNet has four stages and square images, not blocks={tower.blocks} and {image_size}"
            )
        vision |= {"layers": tower.blocks, "head_width": tower.features // tower.heads}
    text = {
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
        "width": model.text_width,
        "heads": model.text_num_heads,
        "layers": model.text_depth,
        "mlp_ratio": ratio_of(model.text_width, model.text_mlp_dim or 4 * model.text_width),
        "no_causal_mask": not model.text_causal,
        "pool_type": "last" if model.text_pool == "last" else "argmax",
        "norm_kwargs": {"eps": TEXT_EPS},
        **_act_kwargs(model.text_act),
    }
    config = {"embed_dim": model.embed_dim, "vision_cfg": vision, "text_cfg": text}
    if model.text_act == "quick_gelu":
        config["quick_gelu"] = True
    if model.logit_bias_init is not None:
        config["init_logit_bias"] = model.logit_bias_init
    how = {}
    if preprocessing:
        if preprocessing["eval_resize"] == "crop" and preprocessing["eval_crop"] != 1.0:
            raise ConfigError(
                f"open_clip keeps the whole short side of a picture, not eval_crop={preprocessing['eval_crop']}"
            )
        how = {key: preprocessing[key] for key in ("mean", "std", "interpolation")}
        how["resize_mode"] = {ours: theirs for theirs, ours in _RESIZE.items()}[preprocessing["eval_resize"]]
    return {"model_cfg": config, "preprocess_cfg": how}


def _act_kwargs(act: str) -> dict[str, Any]:
    return {"act_kwargs": {"approximate": "tanh"}} if act == "gelu_tanh" else {}
