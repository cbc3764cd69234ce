"""The optimizer: one chain of gradient transformations, built from the config."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax import parts
from vision_jax.errors import ConfigError
from vision_jax.models.stacking import path_name
from vision_jax.training.param_groups import ParamGroup, param_groups
from vision_jax.training.rules import RULES, Rule
from vision_jax.training.schedules import peak_lr

_UNIT_INTERVAL = ("b1", "b2", "momentum", "ema")
_NOT_NEGATIVE = ("eps", "weight_decay", "clip_norm", "trust_coefficient")
_WHATEVER_RULE = ("ema", "weight_decay", "clip_norm")


def make_optimizer(config, params, schedule: Callable) -> optax.GradientTransformation:
    """The update of every parameter, as `config.optimizer` describes it.

    First, the gradient's global norm over all parameters that train is clipped; then comes the rule (`rules`), with weight
    decay, learning rate scales and the schedule at the number of updates done. With `decay_times_lr` False the decay is
    big_vision's (its optax.py): added after the learning rate η and its scale s, times the schedule relative to its peak:
    p -= η s Rule(g) + (η / peak) λ p, for any rule.

    Frozen parameters have no state and stay bit for bit as they are. Moments carry the paths of their parameters.

    Args:
      config: the whole config; reads `optimizer`, and the peak learning rate from `schedule`.
      params: nested dictionary of arrays or `jax.ShapeDtypeStruct`s; only paths and shapes are read.
      schedule: number of the update, int32[] -> learning rate, float32[].
    Raises:
      ConfigError for the errors of `param_groups`, coefficients out of range and a rule that cannot be made.
    """
    o = config.optimizer
    _check(o)
    groups = {group.path: group for group in param_groups(config, params)}
    coupled = add_decay(o.weight_decay, groups) if o.decay_times_lr else optax.identity()
    decoupled = optax.identity() if o.decay_times_lr else add_decay(o.weight_decay / peak_lr(config), groups)
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    rule = make_rule(o)
    trust = scale_by_trust_ratio(rule.trust, groups) if rule.trust else None
    directions = [part for part in (rule.before, coupled, trust, rule.after) if part]
    trained = optax.chain(clip, *directions, scale_by_group(groups), decoupled, optax.scale_by_learning_rate(schedule))
    return optax.chain(
        optax.masked(trained, lambda tree: map_paths(lambda path, _: not groups[path].frozen, tree)),
        optax.masked(leave_alone(), lambda tree: map_paths(lambda path, _: groups[path].frozen, tree)),
    )


def make_rule(optimizer) -> Rule:
    """The rule that `config.optimizer` names. Raises ConfigError if that does not give a rule."""
    rule = parts.build("config.optimizer.name", optimizer.name, RULES, optimizer.own_fields)
    if isinstance(rule, optax.GradientTransformation):
        rule = Rule(rule)
    if not isinstance(rule, Rule):
        raise ConfigError(
            f"config.optimizer.name={optimizer.name!r} must return an optax.GradientTransformation, got"
            f" {type(rule).__name__}"
        )
    return rule


def ema_update(ema, variables, decay: float, step: jax.Array):
    """The exponential moving average of the variables after update number `step`, int32[] counted from 0.

    The decay grows to its value as (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage, so that a
    short run's average forgets the initial parameters. Values that do not change are averaged exactly; for integers, such
    as counts among the statistics, the newest value is kept.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def average(old, new):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        return old + (1.0 - decay).astype(old.dtype) * (new - old)

    return jax.tree.map(average, ema, variables)


def map_paths(function: Callable, *trees):
    """`function(path, *leaves)` over the first tree's leaves; skips parts that optax masks out."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), *trees)


def add_decay(rate: float, groups: Mapping[str, ParamGroup]) -> optax.GradientTransformation:
    """Adds `rate` times the parameter if it decays."""
    if not rate:
        return optax.identity()

    def decayed(path: str, update, param):
        return update + rate * param if groups[path].decays else update

    return optax.stateless(lambda updates, params: map_paths(decayed, updates, params))


def scale_by_trust_ratio(coefficient: float, groups: Mapping[str, ParamGroup]) -> optax.GradientTransformation:
    """Multiplies by coefficient * |p| / |update| if the parameter decays; by 1 if either norm is 0.

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
    """Updates of -0.0, the only number that leaves every other bit for bit as it is when added: 0.0 turns -0.0 to 0.0."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update: jnp.full_like(update, -0.0), updates))


def _check(optimizer) -> None:
    ours = optimizer if optimizer.name in RULES else _WHATEVER_RULE  # the fields of any other rule may mean anything
    for key in _UNIT_INTERVAL:
        if key in ours and not 0 <= optimizer[key] < 1:
            raise ConfigError(f"config key 'optimizer.{key}' must lie in [0, 1), got {optimizer[key]}")
    for key in _NOT_NEGATIVE:
        if key in ours and optimizer[key] < 0:
            raise ConfigError(f"config key 'optimizer.{key}' must not be negative, got {optimizer[key]}")
