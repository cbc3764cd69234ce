import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import MAE, ViT, stack_blocks, unstack_blocks
from vision_jax.models.mae import Decoder
from vision_jax.training.flops import count_flops

TINY = dict(patch_size=4, width=16, depth=1, num_heads=2, mlp_dim=24, mask_ratio=0.5)
TINY |= dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=12)
DEEP = dict(depth=2, decoder_depth=2)
VIT = ViT(0, 4, 16, 1, 2, 24, posemb="sincos2d", act="gelu", cls_token=True)  # the encoder of TINY

encode = jax.jit(vj.encode, static_argnums=0)
reconstruct = jax.jit(vj.reconstruct, static_argnums=0)


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def noise_of(*shape, seed=1):
    return np.random.default_rng(seed).random(shape, np.float32)


def tiny(**fields):
    return MAE(**{**TINY, **fields})


def drawn(model, size=(8, 12)):
    """Random parameters, none of them zero, with kernels that keep the scale; unrolled layers."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        values = {"kernel": noise * math.prod(leaf.shape[:-1]) ** -0.5, "scale": 1 + 0.1 * noise}
        return values.get(name, 0.1 * noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model.clone(scan=False), size))


def shapes_of(model, size):
    rngs = {"params": jax.random.key(0), "masking": jax.random.key(0)}
    return jax.eval_shape(model.init, rngs, jnp.zeros((1, *size, 3)))["params"]


def apply(model, params, *args, **kwargs):
    """`model.apply`, compiled: eager application would compile every operation by itself."""
    return jax.device_get(jax.jit(lambda params: model.apply({"params": params}, *args, **kwargs))(params))


def cut(images, rows, columns, p, q):
    """[B, rows * columns, p * q * C] patches of images, by loops."""
    parts = [images[:, r * p : (r + 1) * p, c * q : (c + 1) * q] for r in range(rows) for c in range(columns)]
    return np.stack([part.reshape(len(images), -1) for part in parts], axis=1)


def test_official_initial_values():
    model = MAE(8, 256, 1, 4, 512, 128, 1, 4, 320)
    images = images_of(1, 16, 16)
    params = jax.jit(model.init)({"params": jax.random.key(0), "masking": jax.random.key(1)}, images)["params"]
    decoder = params["decoder"]

    def assert_uniform(values, bound):
        assert 0.97 * bound < np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)

    for tree, width, mlp_dim in ((params, 256, 512), (decoder, 128, 320)):
        attn, mlp = tree["blocks_0"]["attn"], tree["blocks_0"]["mlp"]
        for name in ("query", "key", "value"):  # one matrix (D, 3D) in MAE's code
            assert_uniform(attn[name]["kernel"], (6 / (4 * width)) ** 0.5)
        assert_uniform(attn["out"]["kernel"], (6 / (2 * width)) ** 0.5)
        for layer in mlp.values():
            assert_uniform(layer["kernel"], (6 / (width + mlp_dim)) ** 0.5)
        for layer in (*attn.values(), *mlp.values()):
            assert not layer["bias"].any()
        for norm in (tree["blocks_0"]["norm1"], tree["blocks_0"]["norm2"], tree["norm"]):
            assert (norm["scale"] == 1).all() and not norm["bias"].any()
    for name, sides in (("embed", 256 + 128), ("pred", 128 + 192)):
        assert_uniform(decoder[name]["kernel"], (6 / sides) ** 0.5)
        assert not decoder[name]["bias"].any()
    for token in (params["cls_token"], decoder["mask_token"]):
        np.testing.assert_allclose(token.std(), 0.02, rtol=0.2)
    assert_uniform(params["patch_embed"]["kernel"], (6 / (8 * 8 * 3 + 256)) ** 0.5)
    assert_uniform(params["patch_embed"]["bias"], (8 * 8 * 3) ** -0.5)  # torch's default, which MAE leaves alone


@pytest.mark.parametrize(("patch_size", "sizes"), [(4, [(8, 12), (16, 4)]), ((4, 2), [(12, 8)])])
def test_any_size_goes_through_the_same_parameters(patch_size, sizes):
    model = tiny(patch_size=patch_size)
    params = drawn(model, (8, 8))
    p, q = (4, 4) if patch_size == 4 else patch_size
    for height, width in sizes:
        images, count = images_of(2, height, width), height // p * (width // q)
        chex.assert_trees_all_equal_shapes(shapes_of(model, (height, width)), params)
        loss, prediction, mask = apply(model, params, images, noise_of(2, count))
        chex.assert_shape([prediction, mask], [(2, count, p * q * 3), (2, count)])
        np.testing.assert_array_equal(mask.sum(1), count - count // 2)
        target = cut(images, height // p, width // q, p, q)
        errors = ((prediction - target) ** 2).mean(-1)
        np.testing.assert_allclose(loss, errors[mask == 1].mean(), rtol=1e-5)
        chex.assert_trees_all_equal(model.resize_params(params, (8, 8), (height, width)), params)


def loss_and_grads(model, params, images, noise):
    def loss(params):
        value, prediction, _ = model.apply({"params": params}, images, noise)
        return value, prediction

    (value, prediction), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((value, prediction, grads))


INPUTS = images_of(2, 8, 12), noise_of(2, 6)


@pytest.fixture(scope="module")
def params():
    return drawn(tiny())


@pytest.fixture(scope="module")
def deep():
    """Unrolled parameters of two layers in each part, and loss, prediction and gradients in float32."""
    params = drawn(tiny(**DEEP))
    return params, loss_and_grads(tiny(**DEEP), params, *INPUTS)


@pytest.mark.parametrize(("scan", "remat"), [(True, "none"), (False, "dots"), (True, "full")])
def test_scan_and_remat_change_neither_values_nor_gradients(deep, scan, remat):
    params, (value, prediction, grads) = deep
    model = tiny(scan=scan, remat=remat, **DEEP)
    params = stack_blocks(params) if scan else params
    chex.assert_trees_all_equal_shapes(shapes_of(model, (8, 12)), params)
    got_value, got_prediction, got_grads = loss_and_grads(model, params, *INPUTS)
    np.testing.assert_allclose(got_value, value, rtol=1e-5)
    np.testing.assert_allclose(got_prediction, prediction, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(unstack_blocks(got_grads), grads, rtol=1e-3, atol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_bfloat16_keeps_float32_parameters_predictions_and_losses(deep):
    params, (value, prediction, _) = deep
    model = tiny(dtype=jnp.bfloat16, scan=True, **DEEP)
    params = stack_blocks(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes_of(model, (8, 12)), params)
    got_value, got_prediction, _ = apply(model, params, *INPUTS)
    chex.assert_type([got_value, got_prediction], jnp.float32)
    assert 0 < np.abs(got_prediction - prediction).max() < 0.1 * np.abs(prediction).max()
    np.testing.assert_allclose(got_value, value, rtol=0.02)


def test_noise_makes_the_mask_exact_and_a_key_draws_it(params):
    images, noise = images_of(3, 16, 16), noise_of(3, 16)
    mask = apply(tiny(mask_ratio=0.75), params, images, noise, method=MAE.predict)[1]
    for row, values in zip(mask, noise, strict=True):
        assert set(np.flatnonzero(row == 0)) == set(np.argsort(values)[:4])
    run = jax.jit(lambda key: tiny().apply({"params": params}, images, rngs={"masking": key}, method=MAE.predict))
    first, again, other = (jax.device_get(run(jax.random.key(i))) for i in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first[1], other[1])
    assert not np.array_equal(first[1][0], first[1][1])  # each image has its own
    with pytest.raises(Exception, match="masking"):
        jax.eval_shape(lambda: tiny().apply({"params": params}, images))


def test_the_prediction_knows_nothing_of_hidden_pixels(params):
    images, noise = INPUTS
    predict = jax.jit(lambda images: tiny().apply({"params": params}, images, noise))
    expected = jax.device_get(predict(images))
    pixels = np.kron(expected[2].reshape(2, 2, 3, 1), np.ones((1, 4, 4, 1)))
    hidden = jax.device_get(predict(np.where(pixels == 1, 5 * images + 1, images)))
    np.testing.assert_array_equal(hidden[1], expected[1])
    assert abs(hidden[0] - expected[0]) > 1  # but the loss is about them
    seen = jax.device_get(predict(np.where(pixels == 0, images + 0.5, images)))
    assert np.abs(seen[1] - expected[1]).max(-1).min() > 1e-3  # every patch's prediction depends on what is seen


def encoded(model, images, noise):
    """The latent [B, 1 + K, D] that the decoder is given, from MAE's own code: the decoder is cut out."""

    def stop(call, args, kwargs, context):
        return args[0] if isinstance(context.module, Decoder) else call(*args, **kwargs)

    def encode(params):
        with nn.intercept_methods(stop):
            return model.apply({"params": params}, images, noise, method=MAE.predict)[0]

    return encode


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.7])
def test_the_encoder_sees_cls_and_the_visible_patches_alone(params, ratio):
    images, noise = INPUTS
    latent = jax.jit(encoded(tiny(mask_ratio=ratio), images, noise))(params)
    visible = int(6 * (1 - ratio))
    chex.assert_shape(latent, (2, 1 + visible, 16))
    encoder = {name: value for name, value in params.items() if name != "decoder"}

    def by_hand(m, images):
        patches, cls = m.embed_patches(images)
        return [m.apply_blocks(m.add_prefix(patches[i : i + 1, np.argsort(noise[i])[:visible]], cls)) for i in range(2)]

    np.testing.assert_allclose(latent, np.concatenate(apply(VIT, encoder, images, method=by_hand)), atol=1e-5)


def test_a_large_encoder_saves_three_quarters_of_its_flops():
    """ViT-L/16 at 224 pixels: 50 instead of 197 tokens, besides the embedding of all patches.

    The compiler counts a scanned body once, so it is given one and two layers: the difference is a layer, and 24 alike
    make the model.
    """

    def compiled(depth, ratio):
        model = vj.create_model("mae_vit_l16", depth=depth, decoder_depth=1, mask_ratio=ratio)
        images, noise = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 224, 224, 3), (1, 196)))
        analysis = jax.jit(lambda p, x, n: encoded(model, x, n)(p)).lower(shapes_of(model, (224, 224)), images, noise)
        analysis = analysis.compile().cost_analysis()
        return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]

    def whole(ratio):
        one, two = compiled(1, ratio), compiled(2, ratio)
        return one + 23 * (two - one)

    masked, full = whole(0.75), whole(0.0)
    assert 0.24 < masked / full <= 0.27
    np.testing.assert_allclose(full, 2 * 61.6e9, rtol=0.05)  # of ViT-L/16, two for a multiply-add

    def traced(ratio):
        model = vj.create_model("mae_vit_l16", scan=True, mask_ratio=ratio)
        images, noise = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 224, 224, 3), (1, 196)))
        return count_flops(lambda p, x, n: encoded(model, x, n)(p), shapes_of(model, (224, 224)), images, noise)

    assert 0.24 < traced(0.75) / traced(0.0) <= 0.27


@pytest.mark.parametrize("pool", ["token", "gap", "none"])
def test_encode_is_a_plain_vit_on_the_same_parameters(params, pool):
    images, vit = INPUTS[0], VIT.clone(pool=pool)
    encoder = {name: value for name, value in params.items() if name != "decoder"}
    chex.assert_trees_all_equal_shapes(shapes_of(vit, (8, 12)), encoder)
    expected = apply(vit, encoder, images)
    features = encode(tiny(pool=pool), {"params": params}, images)
    chex.assert_shape(features, (2, 7, 16) if pool == "none" else (2, 16))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    classifier = vit.clone(num_classes=5, head_batch_norm=True)
    if pool != "none":
        head = {"kernel": np.ones((16, 5)), "bias": np.zeros(5)}
        variables = {"params": encoder | {"head": head}, "batch_stats": {"head_norm": {"mean": np.ones(16)}}}
        np.testing.assert_allclose(encode(classifier, variables, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruction_takes_contrast_and_mean_from_the_image(params, norm_pix_loss):
    images, noise = INPUTS
    images = images * np.linspace(0.5, 3, 12)[:, None].astype(np.float32) + 1
    model = tiny(norm_pix_loss=norm_pix_loss)
    loss, prediction, mask = apply(model, params, images, noise)
    target = cut(images, 2, 3, 4, 4)
    mean, std = target.mean(-1, keepdims=True), np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    if not norm_pix_loss:
        mean, std = 0, 1
    errors = ((prediction - (target - mean) / std) ** 2).mean(-1)
    np.testing.assert_allclose(loss, errors[mask == 1].mean(), rtol=1e-5)
    reconstructed, hidden = reconstruct(model, {"params": params}, images, noise)
    chex.assert_shape(reconstructed, images.shape)
    np.testing.assert_array_equal(hidden, mask)
    np.testing.assert_allclose(
        cut(np.asarray(reconstructed), 2, 3, 4, 4), prediction * std + mean, rtol=1e-4, atol=1e-4
    )


def test_reconstruction_hides_what_the_seed_says(params):
    images = INPUTS[0]
    masks = [np.asarray(reconstruct(tiny(), {"params": params}, images, None, seed)[1]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    with pytest.raises(ConfigError, match=r"ViT does not reconstruct.*mae_vit"):
        vj.reconstruct(vj.create_model("vit_b16"), {"params": params}, images)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pool": "map"}, ["'pool'", "'map'", "gap"]),
        ({"decoder_width": 10}, ["'decoder_width'", "multiple of 4", "10"]),
        ({"decoder_width": 20, "decoder_num_heads": 8}, ["'decoder_width'", "decoder_num_heads=8", "20"]),
        ({"mask_ratio": 1.0}, ["'mask_ratio'", "[0, 1)", "1.0"]),
        ({"mask_ratio": -0.1}, ["'mask_ratio'", "-0.1"]),
        ({"mask_ratio": 0.9}, ["'mask_ratio'", "0.9", "4 patches"]),
        ({"width": 18, "num_heads": 4}, ["'width'", "num_heads=4", "18"]),
        ({"width": 18}, ["'width'", "multiple of 4", "18"]),
        ({"act": "gelu_tan"}, ["'act'", "'gelu_tanh'"]),
        ({"remat": "dot"}, ["'remat'", "'dots'"]),
        ({"attention_impl": "flash"}, ["'attention_impl'", "'flash'", "xla"]),
        ({"patch_size": 3}, ["8x8", "3x3"]),
        ({"dropout_rate": 0.1}, ["'dropout_rate'", "mae_vit_b16"]),
    ],
)
def test_values_that_cannot_work_are_named(fields, words):
    with pytest.raises(ConfigError) as error:
        shapes_of(vj.create_model("mae_vit_b16", **{**TINY, **fields}), (8, 8))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
