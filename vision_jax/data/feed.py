"""From host batches to arrays on the mesh, a few steps ahead of their use."""

import collections
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.ops.sharding import BATCH_AXES


def device_batches(host_batches: Iterator[dict], mesh: Mesh, ahead: int = 2, with_ids: bool = False) -> Iterator[dict]:
    """Global arrays over the mesh's batch axes from each process's share; `ahead` transfers are under way at a time.

    Only what the device uses is sent; "id" stays on the host unless it is asked for.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    queue: collections.deque = collections.deque()

    def put(batch: dict) -> dict:
        return {
            key: jax.make_array_from_process_local_data(sharding, value)
            for key, value in batch.items()
            if key != "id" or with_ids
        }

    for batch in host_batches:
        queue.append(put(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue
