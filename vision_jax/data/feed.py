"""Moves host batches to arrays on the mesh, a few steps ahead of their use."""

import collections
import math
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.ops.sharding import BATCH_AXES


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray | None:
    """int[b]: the rows of a global batch on this process's devices, in order; None if it is the only process.

    Processes have the same rows if the mesh splits something other than the batch between them.
    """
    if jax.process_count() == 1:
        return None
    slices = NamedSharding(mesh, PartitionSpec(BATCH_AXES)).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for (rows,) in slices]))


def device_batches(host_batches: Iterator[dict], mesh: Mesh, ahead: int = 2, with_ids: bool = False) -> Iterator[dict]:
    """Global arrays over the mesh's batch axes, from each process's `local_rows`, with `ahead` transfers in flight.

    Only what the device uses is sent; "id" stays on the host unless `with_ids`.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    queue: collections.deque = collections.deque()

    def put(batch: dict) -> dict:
        return {key: globally(value, sharding) for key, value in batch.items() if key != "id" or with_ids}

    for batch in host_batches:
        queue.append(put(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def globally(local: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The global array [B, ...] whose `local_rows` this process holds."""
    ways = math.prod(sharding.mesh.shape[axis] for axis in BATCH_AXES)
    parts = local_rows(sharding.mesh, ways)
    if parts is None:
        return jax.device_put(local, sharding)
    size = len(local) // len(parts)  # rows per part, which is one device's
    by_start = {part * size: local[i * size : (i + 1) * size] for i, part in enumerate(parts)}
    return jax.make_array_from_callback(
        (ways * size, *local.shape[1:]), sharding, lambda index: by_start[index[0].start or 0]
    )
