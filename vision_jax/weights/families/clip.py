"""CLIP in transformers (model_type "clip"); OpenAI's and open_clip's formats stand beside, in clip_openai and open_clip."""

from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.ops.windows import Pair
from vision_jax.weights.families.clip_openai import (
    OPENAI,
    VIT,
    check_end,
    check_text_eps,
    described,
    end_entries,
    tower_of,
)
from vision_jax.weights.families.description import (
    ACTIVATIONS_OF_TRANSFORMERS,
    Description,
    activation,
    count_blocks,
    pair,
    preprocessing,
    read_config,
    real,
    refuse,
    section,
    whole,
)
from vision_jax.weights.families.entries import conv, dense, norm
from vision_jax.weights.mapping import Entry

# CLIPVisionConfig's and CLIPTextConfig's defaults, as far as shapes do not show them.
_VISION = {"num_attention_heads": 12, "image_size": 224, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT = {"num_attention_heads": 8, "eos_token_id": 49407, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_ROOTS = ("vision_model", "text_model")


def describe_transformers(config: Mapping | None, tensors: Mapping, given: Mapping | None = None) -> Description:
    """CLIPModel."""
    config = read_config(config, {})
    vision, text = (_read(config, name, defaults) for name, defaults in (("vision", _VISION), ("text", _TEXT)))
    patch, token = "vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight"
    for needed in (patch, token, "visual_projection.weight"):
        if needed not in tensors:
            raise ConfigError(f"the file is no CLIPModel of transformers: it lacks '{needed}'")
    width, _, *sides = tensors[patch].shape
    vocab_size, text_width = tensors[token].shape
    check_text_eps(text["layer_norm_eps"])
    # Configs of before 2023 have 2, which transformers takes for the token of the largest id.
    check_end("eos_token_id", text["eos_token_id"], vocab_size, alike=(2,))
    depths = [count_blocks(tensors, f"{root}.encoder.layers.") for root in _ROOTS]
    hidden = [tensors[f"{root}.encoder.layers.0.mlp.fc1.weight"].shape[0] for root in _ROOTS]
    image = {
        **VIT,
        "patch_size": sides[0] if sides[0] == sides[1] else tuple(sides),
        "width": width,
        "depth": depths[0],
        "num_heads": whole(vision, "num_attention_heads"),
        "mlp_dim": hidden[0],
        "act": activation(vision["hidden_act"]),
        "norm_eps": real(vision, "layer_norm_eps"),
    }
    fields = {
        "image_tower": "vit",
        "image": image,
        "embed_dim": tensors["visual_projection.weight"].shape[0],
        "text_width": text_width,
        "text_depth": depths[1],
        "text_num_heads": whole(text, "num_attention_heads"),
        "text_mlp_dim": hidden[1],
        "text_act": activation(text["hidden_act"]),
        "vocab_size": vocab_size,
        "context_length": tensors["text_model.embeddings.position_embedding.weight"].shape[0],
    }
    return described(
        fields, pair(vision["image_size"]), dict(given or {}), preprocessing(OPENAI), table_transformers, tensors
    )


def _read(config: Mapping, name: str, defaults: Mapping) -> dict[str, Any]:
    """A tower's config; where an old file has a `*_config_dict`, too, all of it counts, its defaults included."""
    own = {**defaults, **section(config, f"{name}_config")}
    older = f"{name}_config_dict"
    return own if config.get(older) is None else {**own, **defaults, **section(config, older)}


def table_transformers(model: CLIP) -> list[Entry]:
    tower = tower_of(model, "transformers")
    vision, text = (f"{root}.embeddings" for root in _ROOTS)
    table = [
        Entry("image/cls_token", f"{vision}.class_embedding", "vector"),
        *conv("image/patch_embed", f"{vision}.patch_embedding", bias=False),
        Entry("image/pos_embed", f"{vision}.position_embedding.weight", "table"),
        *norm("image/norm_pre", "vision_model.pre_layrnorm"),
        *norm("image/norm", "vision_model.post_layernorm"),
        *dense("image_projection", "visual_projection", bias=False),
        Entry("text/token_embedding", f"{text}.token_embedding.weight"),
        Entry("text/pos_embed", f"{text}.position_embedding.weight"),
        *norm("text/norm", "text_model.final_layer_norm"),
        *dense("text_projection", "text_projection", bias=False),
        *end_entries(model),
    ]
    for ours, theirs, depth in (("image", "vision_model", tower.depth), ("text", "text_model", model.text_depth)):
        for i in range(depth):
            table += _block(f"{ours}/blocks_{i}", f"{theirs}.encoder.layers.{i}")
    return table


def _block(ours: str, theirs: str) -> list[Entry]:
    table = norm(f"{ours}/norm1", f"{theirs}.layer_norm1") + norm(f"{ours}/norm2", f"{theirs}.layer_norm2")
    for part, name in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}.items():
        table += dense(f"{ours}/attn/{part}", f"{theirs}.self_attn.{name}")
    return table + dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")


def config_transformers(model: CLIP, image_size: Pair) -> dict[str, Any]:
    """config.json of CLIPModel. Raises ConfigError naming the field of a model that it cannot be."""
    tower = tower_of(model, "transformers")
    refuse(model, "transformers' CLIP", {"text_causal": (True,), "text_pool": ("end",), "logit_bias_init": (None,)})
    refuse(tower, "transformers' CLIP", {"pool": ("token",), "pre_norm": (True,)})
    if image_size[0] != image_size[1] or tower.patch[0] != tower.patch[1]:
        raise ConfigError(f"transformers' CLIP has square images and patches, not {image_size} and {tower.patch}")
    vision = {
        "model_type": "clip_vision_model",
        "image_size": image_size[0],
        "patch_size": tower.patch[0],
        "num_channels": 3,
        "layer_norm_eps": tower.norm_eps,
        **_encoder(tower.width, tower.depth, tower.num_heads, tower.mlp_dim, tower.act),
    }
    hidden = model.text_mlp_dim or 4 * model.text_width
    text = {
        "model_type": "clip_text_model",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "bos_token_id": model.vocab_size - 2,
        "eos_token_id": model.vocab_size - 1,
        "layer_norm_eps": 1e-5,
        **_encoder(model.text_width, model.text_depth, model.text_num_heads, hidden, model.text_act),
    }
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.embed_dim,
        "vision_config": {**vision, "projection_dim": model.embed_dim},
        "text_config": {**text, "projection_dim": model.embed_dim},
        "dtype": "float32",
    }


def _encoder(width: int, depth: int, heads: int, hidden: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "hidden_act": ACTIVATIONS_OF_TRANSFORMERS[act],
    }
