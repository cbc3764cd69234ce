import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.ops.layer_norm import layer_norm


def draw(shape, seed, mean=0.0):
    return np.random.default_rng(seed).normal(mean, size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 16), (2, 2, 2, 7)])
def test_values_and_gradients_are_flax_s(shape):
    x, scale, bias, grad = draw(shape, 0, 3.0), draw(shape[-1:], 1), draw(shape[-1:], 2), draw(shape, 3)

    def theirs(x, scale, bias):
        norm = nn.LayerNorm(epsilon=1e-3, use_fast_variance=False)
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    expected, expected_back = jax.vjp(theirs, x, scale, bias)
    got, got_back = jax.vjp(lambda *a: layer_norm(*a, 1e-3), x, scale, bias)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(got_back(grad), expected_back(grad), rtol=1e-4, atol=1e-5)


def test_a_large_mean_does_not_swallow_the_variance():
    """E[x^2] - E[x]^2 in float32 would be 0 or negative here."""
    x = draw((4, 64), 0) * 0.1 + 4096.0
    exact = (x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(
        -1, keepdims=True, dtype=np.float64
    )
    np.testing.assert_allclose(layer_norm(x, np.ones(64, np.float32), np.zeros(64, np.float32), 0.0), exact, atol=5e-3)


def test_bfloat16_has_float32_statistics():
    x = jnp.asarray(draw((8, 512), 0, 2.0), jnp.bfloat16)
    ones, zeros = jnp.ones(512), jnp.zeros(512)
    got = layer_norm(x, ones, zeros, 1e-6)
    chex.assert_type(got, jnp.bfloat16)
    exact = layer_norm(x.astype(jnp.float32), ones, zeros, 1e-6)
    np.testing.assert_allclose(got.astype(np.float32), exact, rtol=2**-8, atol=1e-6)
    grads = jax.grad(lambda *a: layer_norm(*a, 1e-6).sum(), argnums=(0, 1, 2))(x, ones, zeros)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]
