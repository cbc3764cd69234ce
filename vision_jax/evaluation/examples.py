"""Puts every example of a source on the devices exactly once, and computes on them there."""

import itertools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.data.feed import device_batches, local_rows
from vision_jax.data.pipeline import eval_batches
from vision_jax.ops.sharding import BATCH_AXES


def every_example(
    source, config, mesh: Mesh, fields: dict | None = None, reader: Callable | None = None
) -> Iterator[dict]:
    """Batches over the mesh's batch axes that show each example of `source` once, all of one size.

    They hold the `fields` that `reader` makes, by default "image": uint8[B, H, W, 3] and "label": int32[B]; "mask":
    bool[B], False for broken images and the last batch's padding; and "id": int32[B], the example's index in the source.
    Examples come in the source's order. B is `config.evals.batch_size`, rounded up to what the devices share evenly and cut
    to the length of the source.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    wanted = min(config.evals.batch_size or config.batch_size, len(source))
    size = -(-wanted // ways) * ways
    rows = local_rows(mesh, size)
    host = eval_batches(source, config, batch_size=size, rows=rows, fields=fields, reader=reader)
    return device_batches(host, mesh, with_ids=True)


def every_row(function: Callable, mesh: Mesh) -> Callable[[dict, Iterator[dict]], Iterator[list[np.ndarray]]]:
    """A function: (variables, batches) -> for each batch, the rows of its readable examples.

    The rows are arrays [n, ...], one per array [B, ...] from `function(variables, batch)`, which is compiled and runs on
    the devices; they are whole on the host in every process.
    """

    def step(variables, batch):
        return *function(variables, batch), batch["mask"]

    step = jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def rows(variables: dict, batches: Iterator[dict]) -> Iterator[list[np.ndarray]]:
        for part in one_ahead(step(variables, batch) for batch in batches):
            yield readable_rows(*part)

    return rows


def one_ahead(steps: Iterator) -> Iterator:
    """The same steps, each yielded once the next is dispatched, so that the next runs while this one is read."""
    for part, _ in itertools.pairwise(itertools.chain(steps, [None])):
        yield part


def readable_rows(*arrays) -> list[np.ndarray]:
    """On the host, the rows of arrays [B, ...] for which the last array, bool[B], is True."""
    *arrays, mask = jax.device_get(arrays)
    return [array[mask] for array in arrays]
