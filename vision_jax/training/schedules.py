"""Learning rate schedules: a linear warm-up, then a decay, as functions of the step."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vision_jax.config import steps_of
from vision_jax.errors import ConfigError

_READ_BY = {"min_lr": ("cosine", "linear"), "cooldown": ("rsqrt", "constant"), "boundaries": ("step",)}


def peak_lr(config) -> float:
    """The rate after the warm-up: `base_lr`, times batch_size / per where `per` is set (Goyal et al., 2017)."""
    schedule = config.schedule
    if schedule.base_lr <= 0 or schedule.per < 0:
        raise ConfigError(
            "config keys 'schedule.base_lr' must be positive and 'schedule.per' must not be negative,"
            f" got {schedule.base_lr} and {schedule.per}"
        )
    return schedule.base_lr * (config.batch_size / schedule.per if schedule.per else 1.0)


def make_schedule(config, *, total_steps: int, num_examples: int) -> Callable[[jax.Array], jax.Array]:
    """The learning rate of every update as a function of its number, counted from 0, that can be jitted.

    The function takes an integer or int array and returns float32 of its shape. With w the warm-up, T `total_steps`:

    - t < w: from `warmup_lr` at t = 0 in a straight line to the peak at t = w, as in MAE's util/lr_sched.py and timm's
      schedulers. So the first update of a recipe with warmup_lr = 0 changes nothing.
    - cosine, linear: from the peak at t = w to `min_lr` at t = T (the update that would follow the last).
    - rsqrt: peak / sqrt(1 + (t - w) / timescale), as in big_vision (Zhai et al., "Scaling Vision Transformers").
    - step: the peak times `factor` for each of the `boundaries`, counted from step 0, that t has reached.
    - rsqrt, constant: the last `cooldown` steps are multiplied by (T - t) / cooldown.

    `update_every` holds each value for so many steps: the rate of step t is that of the last multiple of it.

    Args:
      config: the whole config; reads `schedule` and `batch_size`.
      total_steps: length of the training in updates.
      num_examples: examples in an epoch, by which durations in epochs become steps.
    Raises:
      ConfigError where the parts of the schedule do not fit into the training, or a key is set that the decay ignores.
    """
    schedule, peak = config.schedule, peak_lr(config)

    def steps(key: str, duration: str) -> int:
        return steps_of(duration, config.batch_size, num_examples, f"schedule.{key}")

    warmup, cooldown, timescale, hold = (
        steps(key, schedule[key]) for key in ("warmup", "cooldown", "timescale", "update_every")
    )
    boundaries = sorted(steps("boundaries", duration) for duration in schedule.boundaries)
    _check(schedule, total_steps, warmup, cooldown, timescale, hold)
    warmup_lr, min_lr = schedule.warmup_lr, schedule.min_lr
    stairs = [peak * schedule.factor**i for i in range(len(boundaries) + 1)]

    def decayed(t):
        left = jnp.clip((total_steps - t) / max(total_steps - warmup, 1), 0.0, 1.0)  # exactly 0 at the end
        match schedule.decay:
            case "cosine":
                return min_lr + (peak - min_lr) * 0.5 * (1.0 - jnp.cos(math.pi * left))
            case "linear":
                return min_lr + (peak - min_lr) * left
            case "rsqrt":
                return peak / jnp.sqrt(1.0 + jnp.maximum(t - warmup, 0.0) / timescale)
            case "step":
                return jnp.array(stairs)[jnp.searchsorted(jnp.array(boundaries), t, side="right")]
            case "constant":
                return jnp.full_like(t, peak)

    def learning_rate(step):
        t = (jnp.asarray(step) // hold * hold).astype(jnp.float32)
        rate = jnp.where(t < warmup, warmup_lr + (peak - warmup_lr) * t / max(warmup, 1), decayed(t))
        rate *= jnp.clip((total_steps - t) / cooldown, 0.0, 1.0) if cooldown else 1.0
        return rate.astype(jnp.float32)

    return learning_rate


def _check(schedule, total_steps: int, warmup: int, cooldown: int, timescale: int, hold: int) -> None:
    if warmup > total_steps:
        raise ConfigError(
            f"config key 'schedule.warmup' ({schedule.warmup}: {warmup} steps) is longer than the training"
            f" ('duration': {total_steps} steps)"
        )
    if warmup + cooldown > total_steps:
        raise ConfigError(
            f"config keys 'schedule.warmup' ({schedule.warmup}) and 'schedule.cooldown' ({schedule.cooldown}) take"
            f" {warmup + cooldown} steps together, longer than the training ('duration': {total_steps} steps)"
        )
    for key, steps in (("timescale", timescale), ("update_every", hold)):
        if steps < 1:
            raise ConfigError(f"config key 'schedule.{key}' must be at least one step, got {schedule[key]!r}")
    for key in ("warmup_lr", "min_lr"):
        if schedule[key] < 0:
            raise ConfigError(f"config key 'schedule.{key}' must not be negative, got {schedule[key]}")
    if schedule.factor <= 0:
        raise ConfigError(f"config key 'schedule.factor' must be positive, got {schedule.factor}")
    ignored = {"min_lr": schedule.min_lr, "cooldown": cooldown, "boundaries": schedule.boundaries}
    for key, value in ignored.items():
        if value and schedule.decay not in _READ_BY[key]:
            raise ConfigError(
                f"config key 'schedule.{key}' is read by decay {' and '.join(map(repr, _READ_BY[key]))} only, but"
                f" 'schedule.decay' is {schedule.decay!r}"
            )
    if schedule.decay == "step" and not schedule.boundaries:
        raise ConfigError("config key 'schedule.boundaries' is empty, but 'schedule.decay' is 'step'")
