"""The state of a run at a step: everything that a checkpoint holds and nothing else."""

import zlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps. Data order, augmentation and random numbers are functions of `step`."""

    step: jax.Array  # int32[]
    params: Any  # float32
    collections: Any  # the variables' other collections, e.g. batch statistics
    opt_state: Any
    ema: Any  # the average of `variables`, or None
    skipped: jax.Array  # int32[]: updates skipped since loss or gradient was not finite, or no example was valid
    skipped_in_row: jax.Array  # int32[]
    broken: jax.Array  # int32[]: training examples that were masked

    @property
    def variables(self) -> dict:
        return {"params": self.params, **self.collections}

    @property
    def eval_variables(self) -> dict:
        """The variables that evaluation uses: the average if there is one."""
        return self.variables if self.ema is None else self.ema


def create_state(variables, optimizer, with_ema: bool) -> TrainState:
    collections = dict(variables)
    params = collections.pop("params")
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, {"params": params, **collections}) if with_ema else None
    return TrainState(zero, params, collections, optimizer.init(params), ema, zero, zero, zero)


def rng_stream(seed: int, name: str, step=0) -> jax.Array:
    """The key of a named random stream at a step, so that any step can be replayed alone."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)
