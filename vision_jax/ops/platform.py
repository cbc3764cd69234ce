"""Formulations that depend on the platform: XLA's backends optimise the same mathematics differently."""

import math

import jax


def on_cpu() -> bool:
    """Whether tracing is for CPUs: by the platform of the ambient mesh, or without one by JAX's default backend.

    A mesh of absent devices (compiling ahead of time for TPUs) counts like any other.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "cpu"


def dense_product(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """x [..., D] @ kernel [D, F], with the signature of lax.dot_general, for nn.Dense.

    On CPUs it is a product of two matrices: with more axes XLA transposes the gradients and, in the copies, sums the
    residual stream again and again. TPUs, whose tiles do not divide the number of tokens, would need a copy for that.
    """
    if on_cpu() and x.ndim > 2 and dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())):
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        flat = (((1,), (0,)), ((), ()))
        out = jax.lax.dot_general(rows, kernel, flat, precision, preferred_element_type)
        return out.reshape(*x.shape[:-1], kernel.shape[-1])
    return jax.lax.dot_general(x, kernel, dimension_numbers, precision, preferred_element_type)


def recomputed(function):
    """On CPUs, `function` that saves only its arguments for the backward pass: fresh memory costs more there."""
    return jax.checkpoint(function) if on_cpu() else function
