"""Our MAE against transformers' on the same random parameters and the same noise, in float32."""

import chex
import jax
import numpy as np
import pytest

from vision_jax.models import MAE

torch = pytest.importorskip("torch")
from torch_peers import conv, images_of, linear, norm, randomize  # noqa: E402


def block(state, name):
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    return {
        "norm1": norm(state, f"{name}.layernorm_before"),
        "attn": {ours: linear(state, f"{name}.attention.{their}") for ours, their in projections.items()},
        "norm2": norm(state, f"{name}.layernorm_after"),
        "mlp": {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
    }


def of_transformers(state, depth, decoder_depth):
    patch = "vit.embeddings.patch_embeddings.projection"
    layers = "vit.layers" if "vit.layers.0.layernorm_before.weight" in state else "vit.encoder.layer"
    return {
        "cls_token": state["vit.embeddings.cls_token"],
        "patch_embed": {**conv(state, patch), "bias": state[f"{patch}.bias"]},
        **{f"blocks_{i}": block(state, f"{layers}.{i}") for i in range(depth)},
        "norm": norm(state, "vit.layernorm"),
        "decoder": {
            "embed": linear(state, "decoder.decoder_embed"),
            "mask_token": state["decoder.mask_token"],
            **{f"blocks_{i}": block(state, f"decoder.decoder_layers.{i}") for i in range(decoder_depth)},
            "norm": norm(state, "decoder.decoder_norm"),
            "pred": linear(state, "decoder.decoder_pred"),
        },
    }


@pytest.mark.parametrize(
    ("size", "patch", "width", "decoder_width", "ratio", "norm_pix_loss"),
    [
        (24, 4, 24, 20, 0.75, False),
        (24, 4, 24, 20, 0.75, True),
        (35, 5, 12, 16, 0.6, True),
        (18, 3, 20, 12, 0.05, True),
        (12, 6, 8, 8, 0.5, False),
    ],
)
def test_mae_is_that_of_transformers(size, patch, width, decoder_width, ratio, norm_pix_loss):
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    config = transformers.ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width + 1,
        image_size=size,
        patch_size=patch,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=30,
        mask_ratio=ratio,
        norm_pix_loss=norm_pix_loss,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    state = randomize(theirs)
    with torch.no_grad():  # the fixed positions as transformers itself computes them
        fixed = theirs.vit.embeddings.position_embeddings, theirs.decoder.decoder_pos_embed
        for positions in fixed:
            grid = size // patch
            table = build_2d_sinusoidal_position_embedding(grid, grid, positions.shape[-1], cls_token=True)
            half = positions.shape[-1] // 2  # MAE has columns first, see its util/pos_embed.py
            positions.copy_(torch.cat([table[..., half:], table[..., :half]], -1))
    params = jax.tree.map(np.ascontiguousarray, of_transformers(state, 2, 1))
    ours = MAE(
        patch_size=patch,
        width=width,
        depth=2,
        num_heads=4,
        mlp_dim=2 * width + 1,
        decoder_width=decoder_width,
        decoder_depth=1,
        decoder_num_heads=2,
        decoder_mlp_dim=30,
        mask_ratio=ratio,
        norm_pix_loss=norm_pix_loss,
    )
    images = images_of((size, size))
    noise = np.random.default_rng(2).random((2, (size // patch) ** 2), np.float32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images, noise)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)), noise=torch.from_numpy(noise))
    loss, prediction, mask = jax.jit(ours.apply)({"params": params}, images, noise)
    np.testing.assert_array_equal(mask, expected.mask)
    np.testing.assert_allclose(prediction, expected.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)
