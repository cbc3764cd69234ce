"""Scaled dot-product attention (Vaswani et al., 2017) with float32 logits and softmax."""

import functools
import math

import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.ops.platform import on_cpu

IMPLEMENTATIONS = ("xla",)


def attention(
    q, k, v, *, bias=None, mask=None, scale=None, dropout_rate: float = 0.0, dropout_rng=None, impl: str = "xla"
):
    """softmax(scale q kᵀ + bias) v: [..., N, H, d] from q [..., N, H, d] and k, v [..., M, H, d], in the dtype of v.

    The leading axes are those of a batch, or of a batch and its windows. bias: floats broadcastable to [..., H, N, M],
    added to the scaled logits. mask: booleans broadcastable to the same, False for keys to hide; a query with no visible
    key attends to all equally. scale: 1 / √d by default. dropout_rate: the share of attention weights to drop, if
    `dropout_rng` is given. Raises ConfigError for an unknown `impl`.
    """
    if impl not in IMPLEMENTATIONS:
        raise ConfigError(f"unknown attention_impl {impl!r}{did_you_mean(str(impl), IMPLEMENTATIONS)}")
    drop = functools.partial(_dropout, rng=dropout_rng if dropout_rate > 0.0 else None, rate=dropout_rate)
    return (heads_in_front if on_cpu() else heads_in_place)(_scaled(q, scale), k, v, bias, mask, drop)


def attention_weights(q, k, *, bias=None, mask=None, scale=None):
    """softmax(scale q kᵀ + bias), float32[..., H, N, M]: what `attention` with these arguments multiplies v by."""
    return _weights(_scaled(q, scale), k, bias, mask)


def heads_in_place(q, k, v, bias, mask, drop):
    """Compiles best for TPUs: no explicit transposition, weights normalised before the product with v."""
    weights = drop(_weights(q, k, bias, mask))
    return jnp.einsum("...hqk,...khd->...qhd", weights.astype(v.dtype), v)


def heads_in_front(q, k, v, bias, mask, drop):
    """Fastest on CPUs: batched products of contiguous matrices, normalised after the product with v, which is smaller."""
    q, k, v = (x.swapaxes(-3, -2) for x in (q, k, v))
    logits = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)
    logits = _biased(logits, bias, mask)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("...qk,...kd->...qd", drop(weights).astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / total).astype(v.dtype).swapaxes(-3, -2)


def _scaled(q, scale):
    return q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)


def _weights(q, k, bias, mask):
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(_biased(logits, bias, mask))


def _biased(logits, bias, mask):
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    return logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min)


def _dropout(weights, rng, rate):
    if rng is None:
        return weights
    return jnp.where(jax.random.bernoulli(rng, 1.0 - rate, weights.shape), weights / (1.0 - rate), 0.0)
