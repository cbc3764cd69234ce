import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.errors import ConfigError
from vision_jax.ops import attention as ops
from vision_jax.ops.attention import attention, attention_weights


def draw(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_loop(q, k, v, bias, mask):
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, i, h in np.ndindex(q.shape[:3]):
        logits = [q[b, i, h] @ k[b, j, h] / np.sqrt(q.shape[-1]) + bias[b, h, i, j] for j in range(k.shape[1])]
        weights = np.where(mask[b, h, i], np.exp(logits), 0)
        out[b, i, h] = weights @ v[b, :, h] / weights.sum()
    return out


@settings(max_examples=10, deadline=None)
@given(queries=st.integers(1, 5), keys=st.integers(1, 5), heads=st.integers(1, 3))
def test_against_loops(queries, keys, heads):
    q, k, v = draw((2, queries, heads, 4), 0), draw((2, keys, heads, 4), 1), draw((2, keys, heads, 4), 2)
    bias = draw((2, heads, queries, keys), 3)
    mask = draw((2, heads, queries, keys), 4) > 0
    mask[..., 0] = True
    np.testing.assert_allclose(attention(q, k, v, bias=bias, mask=mask), by_loop(q, k, v, bias, mask), atol=1e-5)


def test_weights_against_loops():
    """Over the rows of the identity as values, attention gives its weights."""
    q, k, bias = draw((2, 3, 2, 4), 0), draw((2, 5, 2, 4), 1), draw((2, 2, 3, 5), 2)
    mask = np.arange(5) < draw((2, 2, 3, 1), 3) + 3
    values = np.broadcast_to(np.eye(5)[:, None], (2, 5, 2, 5))
    expected = by_loop(q, k, values, bias, mask).swapaxes(1, 2)
    np.testing.assert_allclose(attention_weights(q, k, bias=bias, mask=mask), expected, atol=1e-6)
    np.testing.assert_allclose(attention_weights(2 * q, k, bias=bias, mask=mask, scale=0.25), expected, atol=1e-6)
    half = attention_weights(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k)), bias=bias, mask=mask)
    chex.assert_type(half, jnp.float32)
    np.testing.assert_allclose(half, expected, atol=0.02)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_layouts_agree_with_gradients(dtype):
    """What runs on CPUs and what runs elsewhere; dropout draws the same weights in both."""
    q, k, v = (jnp.asarray(draw((2, 6, 3, 4), i), dtype) for i in range(3))
    bias, mask = draw((1, 3, 6, 6), 3), np.tri(6, dtype=bool)

    def loss(arrays, layout):
        out = layout(*arrays, bias, mask, lambda weights: ops._dropout(weights, jax.random.key(0), 0.3))
        chex.assert_type(out, dtype)
        return (out.astype(jnp.float32) ** 2).sum()

    values = [jax.value_and_grad(loss)((q, k, v), layout) for layout in (ops.heads_in_front, ops.heads_in_place)]
    tolerance = 1e-5 if dtype == jnp.float32 else 0.06
    chex.assert_trees_all_close(*values, rtol=tolerance, atol=tolerance)


def test_large_logits_and_hidden_rows_stay_finite():
    q = draw((1, 3, 1, 4), 0) * 1e4
    mask = np.array([True, False, True])[:, None] & np.ones(3, bool)
    out, grads = jax.value_and_grad(lambda q: attention(q, q, q, mask=mask).sum())(q)
    chex.assert_tree_all_finite((out, grads))
    np.testing.assert_allclose(attention(q, q, q, mask=mask)[0, 1, 0], q[0, :, 0].mean(0), rtol=1e-5)


def test_softmax_is_float32_whatever_the_inputs():
    """Weights of 2,000 equal keys sum to 1, which sums in bfloat16 would miss by far."""
    q, v = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.ones((1, 2000, 1, 4), jnp.bfloat16)
    np.testing.assert_allclose(attention(q, jnp.zeros_like(v), v).astype(np.float32), 1.0, rtol=0.01)


def test_dropout_keeps_the_expectation():
    q, k = draw((1, 2, 1, 4), 0), draw((1, 8, 1, 4), 1)
    v = draw((1, 8, 1, 4), 2)
    keys = jax.random.split(jax.random.key(0), 4000)
    dropped = jax.vmap(lambda key: attention(q, k, v, dropout_rate=0.4, dropout_rng=key))(keys)
    assert np.std(dropped, axis=0).min() > 0.05
    np.testing.assert_allclose(dropped.mean(0), attention(q, k, v), atol=0.06)
    np.testing.assert_array_equal(attention(q, k, v, dropout_rate=0.4), attention(q, k, v))


def test_unknown_implementations_are_named():
    q = np.zeros((1, 1, 1, 4), np.float32)
    with pytest.raises(ConfigError, match=r"'xlla'.*'xla'"):
        attention(q, q, q, impl="xlla")
