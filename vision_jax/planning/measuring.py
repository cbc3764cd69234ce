"""Times real steps on synthetic batches."""

import statistics
import time

import jax
import numpy as np

from vision_jax.training.setup import Setup

STEPS = 5


def measure_step(setup: Setup, compiled) -> float:
    """Seconds per step, the median of a few after a first one, on the mesh's devices, without the input pipeline."""
    with jax.set_mesh(setup.mesh):
        state = jax.jit(setup.create, out_shardings=setup.shardings)()
        batch = synthetic_batch(setup)
        seconds = []
        for _ in range(1 + STEPS):
            start = time.perf_counter()
            state, metrics = compiled(state, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def synthetic_batch(setup: Setup) -> dict[str, jax.Array]:
    """A batch of noise with every example valid, sharded as in training."""
    rng = np.random.default_rng(0)
    most = {"image": 256, "tokens": setup.config.model.get("vocab_size", 2)}  # every model has labels 0 and 1

    def draw(name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
        if name == "mask":
            values = np.ones(like.shape, bool)
        else:
            values = rng.integers(0, most.get(name, 2), like.shape).astype(like.dtype)
        return jax.device_put(values, like.sharding)

    return {name: draw(name, like) for name, like in setup.abstract_batch.items()}
