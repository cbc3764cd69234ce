"""Vectors of length 1."""

import jax
import jax.numpy as jnp


def unit_vectors(x, scale=1.0):
    """x [..., d] divided by its length, as in torch's F.normalize, times `scale`; zeros stay zero, with finite gradient."""
    x32 = x.astype(jnp.float32)
    rsqrt = jax.lax.rsqrt(jnp.maximum((x32**2).sum(-1, keepdims=True), 1e-24))
    return (x32 * rsqrt * scale).astype(x.dtype)
