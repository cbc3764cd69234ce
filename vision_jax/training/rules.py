"""Update rules: functions of the fields of their section that return how a gradient becomes a direction.

In the formulas g is the gradient, p the parameter, λ the weight decay, s the parameter's learning rate scale and η the
schedule at the number of updates done. λ p and q belong to what the `decay` patterns name, whatever λ is; the others have
λ = 0 and q = 1. (MAE's LARS decides by whether a tensor has more than one dimension, which for kernels, biases and norms
is the same.) If |p| or the other norm is 0, q = 1. A stack of scanned layers has a q and an s per layer.

A rule of your own may return a `Rule`, or an `optax.GradientTransformation` from gradients to directions as
`optax.scale_by_radam` does, after which λ p is added: p -= η s (direction(g) + λ p).
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax

RULES = {name: f"vision_jax.training.rules:{name}" for name in ("adamw", "sgd", "lars", "lamb", "lion")}


class Rule(NamedTuple):
    """What happens before weight decay is added, the coefficient of the trust ratio (0: none), and what comes last."""

    before: optax.GradientTransformation | None = None
    trust: float = 0.0
    after: optax.GradientTransformation | None = None


def adamw(*, b1: float, b2: float, eps: float, moment_dtype: str) -> Rule:
    """p -= η s (Adam(g) + λ p), as in torch's AdamW and optax."""
    return Rule(optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(moment_dtype)))


def sgd(*, momentum: float, nesterov: bool, moment_dtype: str) -> Rule:
    """m = momentum m + g + λ p; p -= η s m (with nesterov, momentum m + g + λ p in place of m), as in torch's SGD."""
    return Rule(after=optax.trace(momentum, nesterov, jnp.dtype(moment_dtype)))


def lars(*, momentum: float, trust_coefficient: float, moment_dtype: str) -> Rule:
    """m = momentum m + q (g + λ p); p -= η s m, q = trust_coefficient |p| / |g + λ p|, as in MAE's util/lars.py.

    The learning rate stays outside the momentum, unlike in `optax.lars`.
    """
    return Rule(trust=trust_coefficient, after=optax.trace(momentum, False, jnp.dtype(moment_dtype)))


def lamb(*, b1: float, b2: float, eps: float, moment_dtype: str) -> Rule:
    """p -= η s q (Adam(g) + λ p), q = |p| / |Adam(g) + λ p|, as in timm and apex."""
    return adamw(b1=b1, b2=b2, eps=eps, moment_dtype=moment_dtype)._replace(trust=1.0)


def lion(*, b1: float, b2: float, moment_dtype: str) -> Rule:
    """p -= η s (sign(b1 m + (1 - b1) g) + λ p); m = b2 m + (1 - b2) g (Chen et al., 2023)."""
    return Rule(optax.scale_by_lion(b1, b2, jnp.dtype(moment_dtype)))
