"""Swin in the train step of test_step.py: over meshes, in bfloat16, scanned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import run

from vision_jax.config import base_config

MESHES = {"one device": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}


def tiny(mesh="one device", version=1, **changes):
    """(config, devices) for images of 16 pixels: maps of 5 x 5 and of 3 x 3 under windows of 3."""
    c = base_config()
    c.model = dict(name="swin_t", num_classes=10, patch_size=(3, 4), width=16, depths=(2, 1), num_heads=(2, 4))
    c.model = dict(window=3, mlp_ratio=2.0, version=version, drop_path_rate=0.2)
    c.data.image_size, c.batch_size, c.duration, c.log.compile_cache = 16, 16, "40 steps", ""
    c.mesh = dict(zip(("data", "fsdp", "tensor"), MESHES[mesh], strict=True), fsdp_min_size=500)
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (c[section] if section else c)[name] = value
    return c, jax.devices()[: np.prod(MESHES[mesh])]


@functools.cache
def losses(mesh, version):
    config, devices = tiny(mesh, version)
    _, state, metrics = run(config, 5, devices)
    return state, [float(values["loss"]) for values in metrics]


@pytest.mark.parametrize(
    ("mesh", "version"), [pytest.param("data", 1, marks=pytest.mark.slow), ("fsdp", 1), ("mixed", 1)]
)
def test_meshes_give_the_same_losses(mesh, version):
    state, got = losses(mesh, version)
    expected = losses("one device", version)[1]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert len(set(expected)) == 5
    if mesh == "fsdp":
        large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 500]
        assert len(large) > 20
        assert all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in large)
    if mesh == "mixed":  # heads and MLP width over two devices
        for stage, width, block in ((0, 16, 0), (0, 16, 1), (1, 32, 0)):
            parameters = state.params[f"stages_{stage}"][f"blocks_{block}"]
            for name in ("query", "key", "value"):
                kernel = parameters["attn"][name]["kernel"]
                assert kernel.sharding.spec[1] == "tensor"
                assert kernel.addressable_shards[0].data.shape[1] == width // 2
            assert parameters["attn"]["out"]["kernel"].sharding.spec[0] == "tensor"
            assert parameters["mlp"]["fc1"]["kernel"].sharding.spec[1] == "tensor"


def test_bfloat16_keeps_parameters_and_losses_in_float32():
    config, devices = tiny(precision__compute="bfloat16")
    _, state, metrics = run(config, 2, devices)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics[-1]["loss"].dtype == jnp.float32
    np.testing.assert_allclose(metrics[-1]["loss"], losses("one device", 1)[1][1], rtol=0.02)


def test_scanned_pairs_train_on_a_mesh():
    config, devices = tiny("mixed", model=dict(scan=True, remat="full", depths=(3,), num_heads=(2,)))
    _, state, metrics = run(config, 2, devices)
    expected = run(tiny(model=dict(scan=True, depths=(3,), num_heads=(2,)))[0], 2)[2]
    np.testing.assert_allclose(
        [values["loss"] for values in metrics], [values["loss"] for values in expected], rtol=1e-4
    )
    kernel = state.params["stages_0"]["blocks"]["attn"]["query"]["kernel"]
    assert kernel.sharding.spec[0] is None and kernel.addressable_shards[0].data.shape == (3, 16, 8)
