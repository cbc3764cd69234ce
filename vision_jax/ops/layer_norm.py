"""Layer normalisation (Ba et al., 2016) over the last axis, with a backward pass that keeps little and fuses well."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, eps: float):
    """(x - mean) / sqrt(variance + eps) * scale + bias of x [..., D], in the dtype of x; statistics are float32.

    The variance is the mean of squared deviations, as in torch. Differentiable once, and only in reverse mode: XLA's own
    derivative keeps more arrays, and on CPUs fuses the gradients of all later layers into each earlier one.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    centred = x.astype(jnp.float32) - mean
    rstd = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
    return (centred * rstd * scale + bias).astype(x.dtype), (x, scale, mean, rstd)


def _backward(eps, saved, grad):
    x, scale, mean, rstd = saved
    grad = grad.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * rstd
    inner = grad * scale
    dx = inner - inner.mean(-1, keepdims=True) - normal * (inner * normal).mean(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    return (dx * rstd).astype(x.dtype), (grad * normal).sum(rows), grad.sum(rows)


layer_norm.defvjp(_forward, _backward)
