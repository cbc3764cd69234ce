"""The one train step of all tasks: gradients, accumulation, and the guarded update."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vision_jax.ops.sharding import micro_batches, pin_batch
from vision_jax.training.freezing import frozen_as_evaluated
from vision_jax.training.optimizer import ema_update
from vision_jax.training.state import TrainState, rng_stream

COUNTERS = ("skipped", "skipped_in_row", "broken")  # among a step's metrics; all others are means over examples


def train_step(
    state: TrainState,
    batch: dict,
    *,
    task,
    optimizer,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    trains: Any = None,
):
    """One update. Returns the next state and the metrics: means, float32[] each, and `COUNTERS`, int32[].

    If the loss or gradient norm is not finite, or the batch has no valid example, the whole update is skipped:
    parameters, moments, average and statistics stay, only `step` advances and the skip is counted. Pure, so that it can
    be jitted with the state donated. `trains` holds a bool for every parameter (default: all True); the others stay bit
    for bit the same, no gradients are computed for them, and modules that have no other parameters act as in evaluation
    (`freezing.frozen_as_evaluated`).
    """
    rng = rng_stream(seed, "train", state.step)
    grads, collections, metrics = accumulated_gradients(task, state.variables, batch, rng, accumulate, trains)
    means = {name: total / jnp.maximum(count, 1) for name, (total, count) in metrics.items()}
    means["grad_norm"] = optax.tree.norm(grads)
    usable = jnp.isfinite(means["loss"]) & jnp.isfinite(means["grad_norm"]) & batch["mask"].any()
    new = updated(state, grads, collections, task, optimizer, ema_decay, trains)
    new = counted(jax.tree.map(functools.partial(jnp.where, usable), new, state), ~usable, batch["mask"])
    return new, means | {name: getattr(new, name) for name in COUNTERS}


def updated(state: TrainState, grads, collections, task, optimizer, ema_decay: float, trains: Any) -> TrainState:
    """The state after the optimizer's update of the parameters, with these collections and the average of both."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = task.constrain(optax.apply_updates(state.params, updates))
    if trains is not None:
        params = jax.tree.map(lambda new, old, train: new if train else old, params, state.params, trains)
    ema = state.ema
    if ema is not None:
        ema = ema_update(ema, {"params": params, **collections}, ema_decay, state.step)
    return state.replace(params=params, collections=collections, opt_state=opt_state, ema=ema)


def counted(state: TrainState, skipped: jax.Array, mask: jax.Array) -> TrainState:
    """The state one step on, with a skipped update, bool[], and the examples outside `mask`, bool[B], counted."""
    skip = skipped.astype(jnp.int32)
    return state.replace(
        step=state.step + 1,
        skipped=state.skipped + skip,
        skipped_in_row=(state.skipped_in_row + 1) * skip,
        broken=state.broken + jnp.sum(~mask, dtype=jnp.int32),
    )


def accumulated_gradients(task, variables: dict, batch: dict, rng, accumulate: int = 1, trains: Any = None):
    """Gradients of the mean loss over the valid examples of the whole batch, from `accumulate` micro-batches in turn.

    Returns gradients of the parameters, the updated collections and the metrics' (sum, count) pairs. Each micro-batch is
    weighted by the count of its loss, so that the result is the full batch's. Random draws are per micro-batch.
    """
    collections = {name: value for name, value in variables.items() if name != "params"}
    gradients = functools.partial(micro_gradients, task, variables["params"], trains)
    if accumulate == 1 or not task.separable:
        return gradients(collections, batch, rng)

    def one(carry, xs):
        grads, collections, metrics = carry
        micro, key = xs
        new_grads, collections, new_metrics = gradients(collections, jax.tree.map(pin_batch, micro), key)
        weight = new_metrics["loss"][1].astype(jnp.float32)
        grads = jax.tree.map(lambda total, grad: total + weight * grad, grads, new_grads)
        return (grads, collections, jax.tree.map(jnp.add, metrics, new_metrics)), None

    micros = jax.tree.map(lambda x: micro_batches(x, accumulate), batch)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(gradients, collections, first, rng)[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = (jax.tree.map(jnp.zeros_like, variables["params"]), collections, zeros)
    (grads, collections, metrics), _ = jax.lax.scan(one, start, (micros, jax.random.split(rng, accumulate)))
    total = jnp.maximum(metrics["loss"][1], 1)
    return jax.tree.map(lambda grad: grad / total, grads), collections, metrics


def micro_gradients(task, params, trains: Any, collections: dict, batch: dict, rng):
    """Gradients of the mean loss over one micro-batch, the updated collections and the metrics' (sum, count) pairs."""

    def loss(params):
        if trains is not None:
            params = jax.tree.map(lambda p, train: p if train else jax.lax.stop_gradient(p), params, trains)
        with frozen_as_evaluated(trains):
            value, (updated, metrics) = task.loss({"params": params, **collections}, batch, rng, train=True)
        return value, ({**collections, **updated}, metrics)

    (_, (collections, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return grads, collections, metrics
