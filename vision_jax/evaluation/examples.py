"""Every example of a source exactly once, on the devices."""

import math
from collections.abc import Iterator

from jax.sharding import Mesh

from vision_jax.data.feed import device_batches, local_rows
from vision_jax.data.pipeline import eval_batches
from vision_jax.ops.sharding import BATCH_AXES


def every_example(source, config, mesh: Mesh) -> Iterator[dict]:
    """Batches over the mesh's batch axes that show each example of `source` once, all of one size.

    "image": uint8[B, H, W, 3], "label": int32[B], "mask": bool[B], False for broken images and the last batch's padding,
    and "id": int32[B], the example's index in the source, in whose order they come.
    B is `config.evals.batch_size`, rounded up to what the devices share evenly and cut to the length of the source.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    wanted = min(config.evals.batch_size or config.batch_size, len(source))
    size = -(-wanted // ways) * ways
    host = eval_batches(source, config, batch_size=size, rows=local_rows(mesh, size))
    return device_batches(host, mesh, with_ids=True)
