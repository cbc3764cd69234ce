"""CLIP in transformers (model_type "clip"); OpenAI's and open_clip's formats are in clip_openai and open_clip."""

from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.clip_openai import (
    IGNORED,
    LAYOUTS,
    OPENAI,
    TEXT_EPS,
    TOWERS,
    VIT,
    check_end,
    check_text_eps,
    described,
    tower_of,
)
from vision_jax.weights.families.description import Description, pair, preprocessing, real, refuse, section, whole
from vision_jax.weights.families.transformers import (
    Key,
    activation,
    depth,
    patch,
    pictures,
    read_keys,
    required,
    write_keys,
)
from vision_jax.weights.mapping import TORCH, Names

# CLIPVisionConfig's and CLIPTextConfig's defaults.
VISION = {
    "patch_size": Key("patch_size", 32, patch),
    "width": Key("hidden_size", 768),
    "depth": Key("num_hidden_layers", 12, depth),
    "num_heads": Key("num_attention_heads", 12),
    "mlp_dim": Key("intermediate_size", 3072),
    "act": Key("hidden_act", "quick_gelu", activation),
    "norm_eps": Key("layer_norm_eps", 1e-5, real),
}
TEXT = {
    "text_width": Key("hidden_size", 512),
    "text_depth": Key("num_hidden_layers", 12, depth),
    "text_num_heads": Key("num_attention_heads", 8),
    "text_mlp_dim": Key("intermediate_size", 2048),
    "text_act": Key("hidden_act", "quick_gelu", activation),
    "vocab_size": Key("vocab_size", 49408),
    "context_length": Key("max_position_embeddings", 77),
}
NAMES = Names(
    (
        (r"^(image|text)/pos_embed", r"\1/embeddings/position_embedding/weight"),
        (r"^image/cls_token", "image/embeddings/class_embedding"),
        (r"^image/patch_embed", "image/embeddings/patch_embedding"),
        (r"^image/norm_pre", "image/pre_layrnorm"),
        (r"^image/norm/", "image/post_layernorm/"),
        (r"^text/(token_embedding)", r"text/embeddings/\1/weight"),
        (r"^text/norm/", "text/final_layer_norm/"),
        (r"/blocks_", "/encoder/layers/"),
        (r"/norm(1|2)/", r"/layer_norm\1/"),
        (r"/attn/(q|k|v|out)(uery|ey|alue)?/", r"/self_attn/\1_proj/"),
        (r"^image/", "vision_model/"),
        (r"^text/", "text_model/"),
        (r"^image_projection", "visual_projection"),
        *TORCH,
    ),
    LAYOUTS,
    TOWERS,
    IGNORED,
)


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """CLIPModel."""
    config = required(config)
    vision, text = _read(config, "vision", VISION), _read(config, "text", TEXT)
    for path in ("image/patch_embed/kernel", "text/token_embedding", "image_projection/kernel"):
        if (needed := NAMES.of(path)) not in tensors:
            raise ConfigError(f"the file is no CLIPModel of transformers: it lacks '{needed}'")
    fields = {
        "image_tower": "vit",
        "image": {**VIT, **read_keys(vision, VISION)},
        "embed_dim": whole({"projection_dim": 512, **config}, "projection_dim"),
        **read_keys(text, TEXT),
    }
    check_text_eps(text["layer_norm_eps"])
    # Configs from before 2023 have 2, which transformers takes to mean the token with the largest id.
    check_end("eos_token_id", text["eos_token_id"], fields["vocab_size"], alike=(2,))
    image_size = pair(vision["image_size"])
    return described(fields, image_size, dict(given or {}), preprocessing(OPENAI), NAMES)


def _read(config: Mapping, name: str, keys: Mapping[str, Key]) -> dict[str, Any]:
    """A tower's config; if an old file also has a `*_config_dict`, all of it counts, including its defaults."""
    defaults = {"image_size": 224, "eos_token_id": 49407, "layer_norm_eps": TEXT_EPS}
    defaults |= {key.name: key.default for key in keys.values()}
    own, older = {**defaults, **section(config, f"{name}_config")}, f"{name}_config_dict"
    return own if config.get(older) is None else {**own, **defaults, **section(config, older)}


def names_of(model: CLIP, image_size: Pair) -> Names:
    return NAMES


def config_transformers(model: CLIP, image_size: Pair) -> dict[str, Any]:
    """config.json of CLIPModel. Raises ConfigError naming the model's field that CLIPModel does not support."""
    tower = tower_of(model, "transformers")
    refuse(model, "transformers' CLIP", text_causal=(True,), text_pool=("end",), logit_bias_init=(None,))
    refuse(tower, "transformers' CLIP", pool=("token",), pre_norm=(True,))
    if image_size[0] != image_size[1] or tower.patch[0] != tower.patch[1]:
        raise ConfigError(f"transformers' CLIP has square images and patches, not {image_size} and {tower.patch}")
    shared = {"projection_dim": model.embed_dim}
    vision = {
        "model_type": "clip_vision_model",
        **write_keys(tower, VISION),
        **pictures(image_size),
        "patch_size": tower.patch[0],
        **shared,
    }
    text = {
        "model_type": "clip_text_model",
        **write_keys(model.clone(text_mlp_dim=model.text_mlp_dim or 4 * model.text_width), TEXT),
        "bos_token_id": model.vocab_size - 2,
        "eos_token_id": model.vocab_size - 1,
        "layer_norm_eps": TEXT_EPS,
        **shared,
    }
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "vision_config": vision,
        "text_config": text,
        "dtype": "float32",
        **shared,
    }
