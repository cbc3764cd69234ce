"""A masked autoencoder in the train step of test_step.py: over meshes and in micro-batches."""

import functools

import jax
import numpy as np
import pytest
from test_step import place, random_batch, run

from vision_jax.command_line import load_config
from vision_jax.training.state import rng_stream

MESHES = {"one device": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}


def tiny(mesh="one device", **changes):
    """(config, devices) for images of 16 pixels, of whose 16 patches 4 are seen; scanned layers."""
    c = load_config("configs/mae_digits.py")
    c.model = dict(width=32, depth=2, num_heads=2, mlp_dim=48, norm_pix_loss=True, scan=True)
    c.model = dict(decoder_width=16, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=32)
    c.data.image_size, c.batch_size, c.duration, c.schedule.warmup = 16, 16, "40 steps", "2 steps"
    c.log.compile_cache = ""
    c.mesh = dict(zip(("data", "fsdp", "tensor"), MESHES[mesh], strict=True), fsdp_min_size=500)
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (c[section] if section else c)[name] = value
    return c, jax.devices()[: np.prod(MESHES[mesh])]


@functools.cache
def losses(mesh):
    config, devices = tiny(mesh)
    _, state, metrics = run(config, 5, devices)
    return state, [float(values["loss"]) for values in metrics]


@pytest.mark.parametrize("mesh", [pytest.param("data", marks=pytest.mark.slow), "fsdp", "mixed"])
def test_meshes_give_the_same_losses(mesh):
    state, got = losses(mesh)
    expected = losses("one device")[1]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert len(set(expected)) == 5
    if mesh == "fsdp":
        large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 500]
        assert len(large) > 20
        assert all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in large)
    if mesh == "mixed":  # heads and MLP width over two devices, of encoder and decoder
        for tree, width in ((state.params, 32), (state.params["decoder"], 16)):
            query, out = (tree["blocks"]["attn"][name]["kernel"] for name in ("query", "out"))
            assert query.sharding.spec[2] == "tensor" and out.sharding.spec[1] == "tensor"
            assert query.addressable_shards[0].data.shape[2] == width // 2


def test_micro_batches_weigh_by_their_valid_images():
    """Each hides other patches than the whole batch would, so that the loss is compared with the task's own."""
    config, devices = tiny(optimizer__accumulate=2)
    setup, _, metrics = run(config, 3, devices)
    state, batch = jax.jit(setup.create)(), place(setup, random_batch(0))
    keys = jax.random.split(rng_stream(config.seed, "train", 0), 2)
    total = count = 0
    loss = jax.jit(lambda v, b, k: setup.task.loss(v, b, k, train=True)[1][1]["loss"])
    for i in range(2):
        part = loss(state.variables, jax.tree.map(lambda x, i=i: x[i::2], batch), keys[i])
        total, count = total + part[0], count + part[1]
    assert count == random_batch(0)["mask"].sum()
    np.testing.assert_allclose(metrics[0]["loss"], total / count, rtol=1e-5)
    assert np.isfinite([values["loss"] for values in metrics]).all() and metrics[-1]["skipped"] == 0
