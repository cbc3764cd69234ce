"""The one train step of all tasks: gradients, accumulation, the update and its guard."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vision_jax.ops.sharding import pin_batch
from vision_jax.training.freezing import frozen_as_evaluated
from vision_jax.training.optimizer import ema_update
from vision_jax.training.state import TrainState, rng_stream


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
    """One update. Returns the next state and the metrics' means, float32[] each.

    An update whose loss or gradient norm is not finite, or whose batch has no valid example, is skipped whole:
    parameters, moments, average and statistics stay, only `step` advances and the skip is counted. Pure, so that it can
    be jitted with the state donated. `trains` holds a bool for every parameter (default: all True); the others stay bit
    for bit, nothing is computed for their gradients, and modules that have no parameters but these act as in evaluation
    (`freezing.frozen_as_evaluated`).
    """
    rng = rng_stream(seed, "train", state.step)
    grads, collections, metrics = accumulated_gradients(task, state.variables, batch, rng, accumulate, trains)
    norm = optax.tree.norm(grads)
    means = {name: total / jnp.maximum(count, 1) for name, (total, count) in metrics.items()}
    usable = jnp.isfinite(means["loss"]) & jnp.isfinite(norm) & batch["mask"].any()

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = task.constrain(optax.apply_updates(state.params, updates))
    if trains is not None:
        params = jax.tree.map(lambda new, old, train: new if train else old, params, state.params, trains)
    ema = state.ema
    if ema is not None:
        ema = ema_update(ema, {"params": params, **collections}, ema_decay, state.step)
    new = (params, collections, opt_state, ema)
    old = (state.params, state.collections, state.opt_state, state.ema)
    params, collections, opt_state, ema = jax.tree.map(functools.partial(jnp.where, usable), new, old)

    skip = (~usable).astype(jnp.int32)
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        collections=collections,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + skip,
        skipped_in_row=(state.skipped_in_row + 1) * skip,
        broken=state.broken + jnp.sum(~batch["mask"], dtype=jnp.int32),
    )
    counters = {name: getattr(new_state, name) for name in ("skipped", "skipped_in_row", "broken")}
    return new_state, means | {"grad_norm": norm} | counters


def accumulated_gradients(task, variables: dict, batch: dict, rng, accumulate: int = 1, trains: Any = None):
    """Gradients of the mean loss over the valid examples of the whole batch, from `accumulate` micro-batches in turn.

    Returns gradients of the parameters, the updated collections and the metrics' (sum, count) pairs. Each micro-batch
    weighs by the count of its loss, so that the result is the full batch's. Micro-batches interleave (example i goes to
    micro-batch i mod n): each device keeps its own examples and nothing moves. Random draws are per micro-batch.
    """
    params = variables["params"]

    def loss_and_grads(collections, micro, key):
        def loss(params):
            if trains is not None:
                params = jax.tree.map(lambda p, train: p if train else jax.lax.stop_gradient(p), params, trains)
            with frozen_as_evaluated(trains):
                value, (updated, metrics) = task.loss({"params": params, **collections}, micro, key, train=True)
            return value, (updated, metrics)

        (_, (updated, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, {**collections, **updated}, metrics

    collections = {name: value for name, value in variables.items() if name != "params"}
    if accumulate == 1 or not task.separable:
        return loss_and_grads(collections, batch, rng)

    def one(carry, xs):
        grads, collections, metrics = carry
        micro, key = xs
        new_grads, collections, new_metrics = loss_and_grads(collections, jax.tree.map(pin_batch, micro), key)
        weight = new_metrics["loss"][1].astype(jnp.float32)
        grads = jax.tree.map(lambda total, grad: total + weight * grad, grads, new_grads)
        return (grads, collections, jax.tree.map(jnp.add, metrics, new_metrics)), None

    micros = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(rng, accumulate)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(loss_and_grads, collections, first, rng)[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = (jax.tree.map(jnp.zeros_like, params), collections, zeros)
    (grads, collections, metrics), _ = jax.lax.scan(one, start, (micros, keys))
    total = jnp.maximum(metrics["loss"][1], 1)
    return jax.tree.map(lambda grad: grad / total, grads), collections, metrics
