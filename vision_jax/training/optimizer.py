"""The optimizer: one chain of gradient transformations, built from the config."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax.errors import ConfigError
from vision_jax.models.stacking import path_name
from vision_jax.training.param_groups import ParamGroup, param_groups
from vision_jax.training.schedules import peak_lr

_UNIT_INTERVAL = ("b1", "b2", "momentum", "ema")
_NOT_NEGATIVE = ("eps", "weight_decay", "clip_norm", "trust_coefficient")


def make_optimizer(config, params, schedule: Callable) -> optax.GradientTransformation:
    """The update of every parameter, as `config.optimizer` describes it.

    The gradient's global norm over all parameters that train is clipped first. Then, with g the gradient, p the
    parameter, λ the weight decay, s the parameter's learning rate scale and η the schedule at the number of updates
    done:

    - adamw: p -= η s (Adam(g) + λ p), torch's AdamW and optax's.
    - sgd: m = momentum m + g + λ p; p -= η s m (with nesterov, momentum m + g + λ p in place of m), torch's SGD.
    - lars: m = momentum m + q (g + λ p); p -= η s m, q = trust_coefficient |p| / |g + λ p|, as in MAE's util/lars.py.
      The learning rate stays outside the momentum, unlike in `optax.lars`.
    - lamb: p -= η s q (Adam(g) + λ p), q = |p| / |Adam(g) + λ p|, as in timm and apex.
    - lion: p -= η s (sign(b1 m + (1 - b1) g) + λ p); m = b2 m + (1 - b2) g (Chen et al., 2023).

    λ p and q belong to what the `decay` patterns name, whatever λ is; the others have λ = 0 and q = 1. (MAE's LARS goes
    by a tensor having more than one dimension, which for kernels, biases and norms is the same.) Where |p| or the other
    norm is 0, q = 1. A stack of scanned layers has a q and an s for each layer.

    With `decay_times_lr` False the decay is big_vision's (its optax.py): added after the learning rate and its scale,
    times the schedule relative to its peak: p -= η s Rule(g) + (η / peak) λ p, whatever the rule.

    Frozen parameters have no state and stay bit for bit as they are. Moments carry the paths of their parameters.

    Args:
      config: the whole config; reads `optimizer`, and the peak learning rate from `schedule`.
      params: nested dictionary of arrays or `jax.ShapeDtypeStruct`s; only paths and shapes are read.
      schedule: update's number, int32[] -> learning rate, float32[].
    Raises:
      ConfigError for what `param_groups` finds and for coefficients out of range.
    """
    o = config.optimizer
    _check(o)
    groups = {group.path: group for group in param_groups(config, params)}
    dtype = jnp.dtype(o.moment_dtype)
    coupled = add_decay(o.weight_decay, groups) if o.decay_times_lr else optax.identity()
    decoupled = optax.identity() if o.decay_times_lr else add_decay(o.weight_decay / peak_lr(config), groups)
    adam = optax.scale_by_adam(o.b1, o.b2, o.eps, mu_dtype=dtype)
    match o.name:
        case "adamw":
            rule = [adam, coupled]
        case "sgd":
            rule = [coupled, optax.trace(o.momentum, o.nesterov, dtype)]
        case "lars":
            rule = [coupled, scale_by_trust_ratio(o.trust_coefficient, groups), optax.trace(o.momentum, False, dtype)]
        case "lamb":
            rule = [adam, coupled, scale_by_trust_ratio(1.0, groups)]
        case "lion":
            rule = [optax.scale_by_lion(o.b1, o.b2, dtype), coupled]
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    trained = optax.chain(clip, *rule, scale_by_group(groups), decoupled, optax.scale_by_learning_rate(schedule))
    return optax.chain(
        optax.masked(trained, lambda tree: map_paths(lambda path, _: not groups[path].frozen, tree)),
        optax.masked(leave_alone(), lambda tree: map_paths(lambda path, _: groups[path].frozen, tree)),
    )


def ema_update(ema, variables, decay: float, step: jax.Array):
    """The exponential moving average of the variables after update number `step`, int32[] counted from 0.

    The decay grows to its value as (1 + step) / (10 + step), as TensorFlow's ExponentialMovingAverage has it, so that a
    short run's average forgets the initial parameters. What does not change is averaged exactly; of whole numbers, such
    as counts among the statistics, the newest counts.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def average(old, new):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        return old + (1.0 - decay).astype(old.dtype) * (new - old)

    return jax.tree.map(average, ema, variables)


def map_paths(function: Callable, *trees):
    """`function(path, *leaves)` over the first tree's leaves; parts that optax masks out are passed over."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), *trees)


def add_decay(rate: float, groups: Mapping[str, ParamGroup]) -> optax.GradientTransformation:
    """Adds `rate` times the parameter where it decays."""
    if not rate:
        return optax.identity()

    def decayed(path: str, update, param):
        return update + rate * param if groups[path].decays else update

    return optax.stateless(lambda updates, params: map_paths(decayed, updates, params))


def scale_by_trust_ratio(coefficient: float, groups: Mapping[str, ParamGroup]) -> optax.GradientTransformation:
    """Multiplies by coefficient * |p| / |update| where the parameter decays; by 1 where either norm is 0.

    Norms are over a parameter, or over each layer of a scanned stack (You et al., 2017 and 2020).
    """

    def scaled(path: str, update, param):
        group = groups[path]
        if not group.decays:
            return update
        axes = tuple(range(1 if group.stacked else 0, update.ndim))
        param_norm, update_norm = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (param, update))
        usable = (param_norm > 0) & (update_norm > 0)
        return update * jnp.where(usable, coefficient * param_norm / jnp.where(usable, update_norm, 1.0), 1.0)

    return optax.stateless(lambda updates, params: map_paths(scaled, updates, params))


def scale_by_group(groups: Mapping[str, ParamGroup]) -> optax.GradientTransformation:
    """Multiplies by each parameter's `lr_scale`."""

    def scaled(path: str, update):
        scale = groups[path].lr_scale
        if isinstance(scale, tuple):
            scale = np.array(scale, update.dtype).reshape(-1, *[1] * (update.ndim - 1))
        return update if isinstance(scale, float) and scale == 1.0 else update * scale

    return optax.stateless(lambda updates, _: map_paths(scaled, updates))


def leave_alone() -> optax.GradientTransformation:
    """Updates of -0.0, the only number that added to any other returns it bit for bit: 0.0 would make 0.0 of -0.0."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update: jnp.full_like(update, -0.0), updates))


def _check(optimizer) -> None:
    for key in _UNIT_INTERVAL:
        if not 0 <= optimizer[key] < 1:
            raise ConfigError(f"config key 'optimizer.{key}' must lie in [0, 1), got {optimizer[key]}")
    for key in _NOT_NEGATIVE:
        if optimizer[key] < 0:
            raise ConfigError(f"config key 'optimizer.{key}' must not be negative, got {optimizer[key]}")
