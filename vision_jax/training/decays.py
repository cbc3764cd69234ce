"""Decays of the learning rate: functions of the fields of their section that return progress -> factor of the peak.

Progress is float32 in [0, 1], from the end of the warm-up to the update after the last one, of any shape; so is the
factor. Built-in decays take durations as shares of that span. A decay of your own takes its fields as they are.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

DECAYS = {name: f"vision_jax.training.decays:{name}" for name in ("cosine", "linear", "rsqrt", "step", "constant")}
Decay = Callable[[jax.Array], jax.Array]


def cosine() -> Decay:
    return lambda progress: 0.5 * (1.0 - jnp.cos(math.pi * (1.0 - progress)))  # exactly 0 at the end


def linear() -> Decay:
    return lambda progress: 1.0 - progress


def rsqrt(*, timescale: float) -> Decay:
    """1 / sqrt(1 + progress / timescale), as in big_vision (Zhai et al., "Scaling Vision Transformers")."""
    return lambda progress: 1.0 / jnp.sqrt(1.0 + progress / timescale)


def step(*, boundaries: tuple, factor: float) -> Decay:
    """Multiplies by `factor` at each boundary that is reached."""
    stairs, boundaries = [factor**i for i in range(len(boundaries) + 1)], sorted(boundaries)
    return lambda progress: jnp.array(stairs)[jnp.searchsorted(jnp.array(boundaries), progress, side="right")]


def constant() -> Decay:
    return jnp.ones_like
