"""Our CLIP against transformers', its ModifiedResNet against open_clip's, on the same random parameters in float32."""

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.models import CLIP
from vision_jax.models.text import TextTransformer

torch = pytest.importorskip("torch")
from torch_peers import conv, images_of, linear, norm, randomize  # noqa: E402


def block(state, name):
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {
        "norm1": norm(state, f"{name}.layer_norm1"),
        "attn": {ours: linear(state, f"{name}.self_attn.{their}") for ours, their in projections.items()},
        "norm2": norm(state, f"{name}.layer_norm2"),
        "mlp": {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
    }


def of_transformers(state, depth, text_depth):
    vision, text = "vision_model", "text_model"
    return {
        "image": {
            "cls_token": state[f"{vision}.embeddings.class_embedding"][None, None],
            "patch_embed": conv(state, f"{vision}.embeddings.patch_embedding"),
            "pos_embed": state[f"{vision}.embeddings.position_embedding.weight"][None],
            "norm_pre": norm(state, f"{vision}.pre_layrnorm"),
            **{f"blocks_{i}": block(state, f"{vision}.encoder.layers.{i}") for i in range(depth)},
            "norm": norm(state, f"{vision}.post_layernorm"),
        },
        "image_projection": {"kernel": state["visual_projection.weight"].T},
        "text": {
            "token_embedding": state[f"{text}.embeddings.token_embedding.weight"],
            "pos_embed": state[f"{text}.embeddings.position_embedding.weight"],
            **{f"blocks_{i}": block(state, f"{text}.encoder.layers.{i}") for i in range(text_depth)},
            "norm": norm(state, f"{text}.final_layer_norm"),
        },
        "text_projection": {"kernel": state["text_projection.weight"].T},
        "logit_scale": state["logit_scale"],
    }


def texts(count, length, vocab_size):
    """Start, words, end and padding with zeros, as CLIP's tokenizer has them; the first text fills its row."""
    rng = np.random.default_rng(2)
    tokens = np.zeros((count, length), np.int32)
    for row, size in zip(tokens, [length, *rng.integers(2, length, count - 1)], strict=True):
        row[:size] = [vocab_size - 2, *rng.integers(1, vocab_size - 2, size - 2), vocab_size - 1]
    return tokens


@pytest.mark.parametrize(
    (
        "size",
        "patch",
        "width",
        "heads",
        "depth",
        "text_width",
        "text_heads",
        "length",
        "embed_dim",
        "act",
        "legacy_end",
    ),
    [
        (32, 8, 32, 2, 2, 24, 3, 9, 16, "quick_gelu", False),
        (35, 5, 20, 5, 1, 28, 7, 13, 11, "quick_gelu", True),
        (9, 3, 14, 1, 3, 36, 2, 5, 40, "gelu", False),
    ],
)
def test_clip_is_that_of_transformers(
    size, patch, width, heads, depth, text_width, text_heads, length, embed_dim, act, legacy_end
):
    transformers = pytest.importorskip("transformers")
    vocab_size = 50
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": embed_dim}
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(
            projection_dim=embed_dim,
            text_config={
                "vocab_size": vocab_size,
                "max_position_embeddings": length,
                "hidden_size": text_width,
                "intermediate_size": 3 * text_width + 1,
                "num_hidden_layers": 2,
                "num_attention_heads": text_heads,
                "bos_token_id": vocab_size - 2,
                "eos_token_id": 2 if legacy_end else vocab_size - 1,  # 2: configurations of before 2023
                **shared,
            },
            vision_config={
                "image_size": size,
                "patch_size": patch,
                "hidden_size": width,
                "intermediate_size": 2 * width + 3,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
                **shared,
            },
        )
    ).eval()
    randomize(theirs)
    with torch.no_grad():
        theirs.logit_scale.fill_(2.6592)
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    ours = vj.create_model(
        "clip_vit_b32",
        image={
            "patch_size": patch,
            "width": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_dim": 2 * width + 3,
            "act": act,
        },
        embed_dim=embed_dim,
        text_width=text_width,
        text_depth=2,
        text_num_heads=text_heads,
        text_mlp_dim=3 * text_width + 1,
        text_act=act,
        vocab_size=vocab_size,
        context_length=length,
    )
    images, tokens = images_of((size, size)), texts(5, length, vocab_size)
    params = jax.tree.map(np.array, of_transformers(state, depth, 2))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images, tokens)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        pooled = theirs.vision_model(pixels).pooler_output
        expected = theirs(torch.from_numpy(tokens).long(), pixels)

    def run(variables):
        features = ours.apply(variables, images, method=CLIP.image_features)
        hidden = ours.apply(variables, tokens, method=lambda m, x: TextTransformer.apply_blocks(m.text_model, x))
        return *ours.apply(variables, images, tokens), features, hidden

    image, text, scale, features, hidden = jax.jit(run)({"params": params})
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features, pooled, **close)
    np.testing.assert_allclose(hidden, expected.text_model_output.last_hidden_state, **close)
    np.testing.assert_allclose(image, expected.image_embeds, **close)
    np.testing.assert_allclose(text, expected.text_embeds, **close)
    np.testing.assert_allclose(scale * image @ text.T, expected.logits_per_image, **close)


def of_open_clip(state, blocks):
    """The tower's parameters with those of its projection, and its batch statistics, as CLIP has them."""
    params, statistics = {}, {}

    def take(where, ours, conv_name, norm_name):
        tree, stats = params, statistics
        for name in where:
            tree, stats = tree.setdefault(name, {}), stats.setdefault(name, {})
        tree[f"conv{ours}"], tree[f"bn{ours}"] = conv(state, conv_name), norm(state, norm_name)
        stats[f"bn{ours}"] = {"mean": state[f"{norm_name}.running_mean"], "var": state[f"{norm_name}.running_var"]}

    for i in (1, 2, 3):
        take((), i, f"conv{i}", f"bn{i}")
    for s, count in enumerate(blocks):
        for u in range(count):
            where, name = (f"stages_{s}", f"units_{u}"), f"layer{s + 1}.{u}"
            for i in (1, 2, 3):
                take(where, i, f"{name}.conv{i}", f"{name}.bn{i}")
            if f"{name}.downsample.0.weight" in state:
                take(where, "_proj", f"{name}.downsample.0", f"{name}.downsample.1")
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    params["attn_pool"] = {
        "pos_embed": state["attnpool.positional_embedding"],
        **{ours: linear(state, f"attnpool.{their}") for ours, their in names.items()},
    }
    return {"image": params, "image_projection": linear(state, "attnpool.c_proj")}, {"image": statistics}


@pytest.mark.parametrize(
    ("size", "blocks", "width", "heads", "embed_dim"),
    [(64, (1, 2, 1, 1), 8, 4, 24), (70, (2, 1, 2, 1), 6, 3, 10), (96, (1, 1, 1, 1), 10, 5, 16)],
)
def test_modified_resnet_is_open_clip_s(size, blocks, width, heads, embed_dim):
    pytest.importorskip("open_clip")
    from open_clip.modified_resnet import ModifiedResNet

    theirs = ModifiedResNet(list(blocks), embed_dim, heads, size, width)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():  # as large as keeps the activations' size
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight += 1
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)

    theirs.double()  # in float32, torch's own rounding in training mode comes near the tolerance

    def variables():
        state = {name: value.detach().float().numpy() for name, value in theirs.state_dict().items()}
        return of_open_clip(state, blocks)

    params, statistics = variables()
    image = {"blocks": blocks, "width": width, "num_heads": heads}
    ours = vj.create_model("clip_rn50", image=image, embed_dim=embed_dim, text_depth=1)
    images = np.random.default_rng(1).normal(size=(8, size, size, 3)).astype(np.float32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images, np.zeros((8, 77), np.int32))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, {name: shapes["params"][name] for name in params})
    chex.assert_trees_all_equal_shapes_and_dtypes(statistics, shapes["batch_stats"])
    full = {"params": {**params, "logit_scale": np.float32(0)}, "batch_stats": statistics}
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    for train in (False, True):
        with torch.no_grad():
            expected = theirs.train(train)(pixels.double()).numpy()
        got, updated = jax.jit(
            lambda variables, train=train: ours.apply(
                variables, images, train, mutable=["batch_stats"], method=CLIP.encode_image
            )
        )(full)
        assert np.abs(expected).max() > 0.3
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(updated["batch_stats"], variables()[1], rtol=1e-5, atol=1e-5)
    moved = jax.tree.map(lambda before, after: np.abs(after - before).min() > 0, statistics, updated["batch_stats"])
    assert all(jax.tree.leaves(moved))
