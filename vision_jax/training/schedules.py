"""Learning rate schedules: a linear warm-up, then a decay, as functions of the step."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import parts
from vision_jax.config import steps_of
from vision_jax.errors import ConfigError
from vision_jax.training.decays import DECAYS, Decay

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
    """The learning rate of every update as a jit-compatible function of its number, counted from 0.

    The function takes an integer or int array and returns float32 of its shape. With w the warm-up, T `total_steps`:

    - t < w: a straight line from `warmup_lr` at t = 0 to the peak at t = w, as in MAE's util/lr_sched.py and timm's
      schedulers. So the first update of a recipe with warmup_lr = 0 changes nothing.
    - from w on: `min_lr` + (peak - `min_lr`) times the decay's factor at (t - w) / (T - w); see `decays`.
    - the last `cooldown` steps are multiplied by (T - t) / cooldown.

    `update_every` holds each value for that many steps: step t gets the rate of the last multiple of it. Whatever is
    longer than the training is shortened first, see `stretches`.

    Args:
      config: the whole config; reads `schedule` and `batch_size`.
      total_steps: length of the training in updates.
      num_examples: examples per epoch, used to convert durations in epochs to steps.
    Raises:
      ConfigError if a value makes no sense, or a key is set that the decay ignores.
    """
    schedule, peak = config.schedule, peak_lr(config)
    warmup, cooldown, hold = stretches(config, total_steps, num_examples).values()
    built_in = schedule.decay in DECAYS
    min_lr = schedule.min_lr if built_in else 0.0
    _check(schedule, cooldown, hold)
    span = max(total_steps - warmup, 1)
    decay = _decay(schedule, _shares(config, num_examples, warmup, span) if built_in else schedule.own_fields)

    def learning_rate(step):
        t = (jnp.asarray(step) // hold * hold).astype(jnp.float32)
        rising = schedule.warmup_lr + (peak - schedule.warmup_lr) * t / max(warmup, 1)
        progress = 1.0 - jnp.clip((total_steps - t) / span, 0.0, 1.0)  # exactly 1 at the end
        falling = min_lr + (peak - min_lr) * decay(progress)
        rate = jnp.where(t < warmup, rising, falling)
        rate *= jnp.clip((total_steps - t) / cooldown, 0.0, 1.0) if cooldown else 1.0
        return rate.astype(jnp.float32)

    return learning_rate


def stretches(config, total_steps: int, num_examples: int) -> dict[str, int]:
    """The schedule's warmup, cooldown and update_every in steps.

    A warm-up and a cool-down that together are longer than the training, as in a trial of a few steps, take half of it, in
    their proportion; a rate that would be held throughout is held for one step.
    """
    built_in = config.schedule.decay in DECAYS
    warmup, hold = (_steps(config, num_examples, key) for key in ("warmup", "update_every"))
    cooldown = _steps(config, num_examples, "cooldown") if built_in else 0
    if (both := warmup + cooldown) > total_steps:
        warmup, cooldown = (steps * total_steps // (2 * both) for steps in (warmup, cooldown))
    return {"warmup": warmup, "cooldown": cooldown, "update_every": 1 if hold > total_steps else hold}


def _steps(config, num_examples: int, key: str, duration: str | None = None) -> int:
    """The duration at a key of the schedule, or the given one from a list there, in steps."""
    duration = config.schedule[key] if duration is None else duration
    return steps_of(duration, config.batch_size, num_examples, f"schedule.{key}")


def _shares(config, num_examples: int, warmup: int, span: int) -> dict[str, Any]:
    """The fields of the built-in decays, with durations as shares of the `span` steps after the warm-up."""
    schedule, steps = config.schedule, functools.partial(_steps, config, num_examples)
    if (timescale := steps("timescale")) < 1:
        raise ConfigError(f"config key 'schedule.timescale' must be at least one step, got {schedule.timescale!r}")
    # Half a step earlier, so that no rounding of the progress decides.
    boundaries = [(steps("boundaries", each) - 0.5 - warmup) / span for each in schedule.boundaries]
    return {"timescale": timescale / span, "boundaries": tuple(boundaries), "factor": schedule.factor}


def _decay(schedule, fields: Mapping[str, Any]) -> Decay:
    """The decay that the schedule names; raises ConfigError unless it returns a factor for every progress."""
    decay = parts.build("config.schedule.decay", schedule.decay, DECAYS, fields)
    try:
        with jax.ensure_compile_time_eval():
            factors = np.asarray(decay(jnp.linspace(0.0, 1.0, 3)))
    except Exception as error:
        raise ConfigError(f"config.schedule.decay={schedule.decay!r}: {type(error).__name__}: {error}") from error
    if factors.shape != (3,) or not np.isfinite(factors).all():
        raise ConfigError(
            f"config.schedule.decay={schedule.decay!r} must return a function of progress, float32 of any shape in [0, 1],"
            f" to a factor for each; it makes {factors.tolist()} of [0.0, 0.5, 1.0]"
        )
    return decay


def _check(schedule, cooldown: int, hold: int) -> None:
    if hold < 1:
        raise ConfigError(
            f"config key 'schedule.update_every' must be at least one step, got {schedule.update_every!r}"
        )
    if schedule.warmup_lr < 0:
        raise ConfigError(f"config key 'schedule.warmup_lr' must not be negative, got {schedule.warmup_lr}")
    if schedule.decay in DECAYS:
        _check_built_in(schedule, cooldown)


def _check_built_in(schedule, cooldown: int) -> None:
    if schedule.min_lr < 0:
        raise ConfigError(f"config key 'schedule.min_lr' must not be negative, got {schedule.min_lr}")
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
