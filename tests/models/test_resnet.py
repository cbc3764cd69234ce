import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models.resnet import ResNet, ResNetStem, StdConv, standardize, stem_size


def test_standardised_kernels_by_hand():
    kernel = np.random.default_rng(0).normal(2, 3, size=(3, 3, 4, 5))
    for out in range(5):
        one = kernel[..., out]
        expected = (one - one.mean()) / (one.std() + 1e-5)
        np.testing.assert_allclose(standardize(jnp.asarray(kernel))[..., out], expected, atol=1e-5)


def test_padding_is_same_with_stride_two():
    """Brute force: a 7x7 kernel of stride 2 over 9 rows looks 3 back; over 8 rows, where SAME is uneven, 2."""
    for size, before in ((9, 3), (8, 2)):
        x = np.random.default_rng(0).normal(size=(1, size, size, 2)).astype(np.float32)
        variables = StdConv(1, 7, 2).init(jax.random.key(0), x)
        kernel = np.asarray(standardize(variables["params"]["kernel"]))[..., 0]
        padded = np.pad(x[0], [(before, 4), (before, 4), (0, 0)])
        got = StdConv(1, 7, 2).apply(variables, x)
        for i, j in np.ndindex(got.shape[1:3]):
            expected = (padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7] * kernel).sum()
            np.testing.assert_allclose(got[0, i, j, 0], expected, atol=1e-4)


@pytest.mark.parametrize("blocks", [(), (1,), (1, 1, 1)])
def test_features_have_the_size_that_stem_size_says(blocks):
    images = jax.ShapeDtypeStruct((1, 50, 97, 3), jnp.float32)
    out, _ = jax.eval_shape(ResNetStem(blocks, 32).init_with_output, jax.random.key(0), images)
    assert out.shape[1:3] == stem_size((50, 97), blocks)


def test_units_begin_as_projections_and_the_head_as_zeros():
    model = vj.create_model("resnet26", blocks=[1, 1], width=32, num_classes=5, head_bias_init=-2.0)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, images), -2.0)
    assert not variables["params"]["stages_1"]["units_0"]["gn3"]["scale"].any()
    features = jax.eval_shape(model.clone(num_classes=0).apply, variables, images)
    chex.assert_shape(features, (2, 32 * 2 * 4))


def test_bfloat16_keeps_float32_parameters_and_logits():
    model = vj.create_model("resnet26", blocks=(1,), width=32, num_classes=5, head_init=0.1)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    half = model.clone(dtype=jnp.bfloat16)
    variables = jax.jit(half.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.jit(half.apply)(variables, images)
    chex.assert_type(logits, jnp.float32)
    exact = jax.jit(model.apply)(variables, images)
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_widths_that_groups_do_not_divide():
    with pytest.raises(ConfigError, match=r"width.*32.*48"):
        ResNet(width=48)
