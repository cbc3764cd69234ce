import chex
import jax
import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.data.feed import device_batches, local_rows
from vision_jax.training.partitioning import make_mesh


def mesh_of(devices=None, **sizes):
    c = base_config()
    c.mesh = sizes
    return make_mesh(c, devices)


def host_batches():
    rng = np.random.default_rng(0)
    for step in range(5):
        yield {"image": rng.integers(0, 256, (16, 2, 2, 3), np.uint8), "id": np.arange(16) + step}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("sizes", [dict(data=8), dict(data=2, fsdp=2, tensor=2), dict(data=1, tensor=8)], ids=str)
def test_batches_lie_over_the_batch_axes_whole_and_in_order(monkeypatch, sizes, several):
    """With several processes, too, of which this one has devices all over the mesh, in no order."""
    monkeypatch.setattr(jax, "process_count", lambda: 2 if several else 1)
    mesh = mesh_of(jax.devices()[::-1], **sizes)
    np.testing.assert_equal(local_rows(mesh, 16), np.arange(16) if several else None)
    batches = list(device_batches(host_batches(), mesh))
    for ours, expected in zip(batches, host_batches(), strict=True):
        chex.assert_trees_all_equal(ours, {"image": expected["image"]})
        assert ours["image"].addressable_shards[0].data.shape[0] == 16 // (8 // sizes.get("tensor", 1))
    (first, *_) = device_batches(host_batches(), mesh, with_ids=True)
    np.testing.assert_array_equal(first["id"], np.arange(16))
