"""A CLIP in the train step: over meshes, with the loss of the global batch and its gradient in parts."""

import functools

import jax
import numpy as np
import pytest
from test_step import random_batch, run

from vision_jax.command_line import load_config

MESHES = {"one device": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}


def tiny(mesh="one device", sigmoid=False, **changes):
    c = load_config("configs/clip_digits.py")
    c.model = dict(image=dict(width=32, depth=1, num_heads=2, mlp_dim=48), embed_dim=16, scan=True)
    c.model = dict(text_width=32, text_depth=1, text_num_heads=2)
    if sigmoid:
        c.model.logit_bias_init, c.loss.name = -10.0, "sigmoid"
    c.batch_size, c.duration, c.schedule.warmup = 16, "40 steps", "2 steps"
    c.log.compile_cache = ""
    c.mesh = dict(zip(("data", "fsdp", "tensor"), MESHES[mesh], strict=True), fsdp_min_size=500)
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (c[section] if section else c)[name] = value
    return c, jax.devices()[: np.prod(MESHES[mesh])]


def random_pairs(step):
    rng = np.random.default_rng(step)
    tokens = rng.integers(1, 257, (16, 32), np.int32)
    tokens[:, 12] = 258
    return random_batch(step) | {"tokens": tokens}


@functools.cache
def losses(mesh, sigmoid):
    config, devices = tiny(mesh, sigmoid)
    _, state, metrics = run(config, 5, devices, random_pairs)
    return state, [float(values["loss"]) for values in metrics]


@pytest.mark.parametrize(
    ("mesh", "sigmoid"), [pytest.param("data", False, marks=pytest.mark.slow), ("fsdp", False), ("mixed", True)]
)
def test_meshes_give_the_same_losses(mesh, sigmoid):
    state, got = losses(mesh, sigmoid)
    expected = losses("one device", sigmoid)[1]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert len(set(expected)) == 5
    if mesh == "fsdp":
        large = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.size >= 1000]
        assert len(large) > 20
        assert all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in large)
    if mesh == "mixed":  # heads and MLP width of both towers over two devices
        for tower in ("image", "text"):
            query, out = (state.params[tower]["blocks"]["attn"][name]["kernel"] for name in ("query", "out"))
            assert query.sharding.spec[2] == "tensor" and out.sharding.spec[1] == "tensor"


def test_parts_make_the_same_steps():
    _, whole = losses("one device", False)
    config, devices = tiny("data", optimizer__accumulate=2)
    got = [float(values["loss"]) for values in run(config, 5, devices, random_pairs)[2]]
    np.testing.assert_allclose(got, whole, rtol=1e-4)


def test_a_locked_tower_stays_as_it_is_and_the_scale_within_its_bounds():
    config, devices = tiny(optimizer__freeze="image/.*", schedule__base_lr=3.0, optimizer__clip_norm=0.0)
    setup, state, _ = run(config, 4, devices, random_pairs)
    start = jax.jit(setup.create)().params
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), state.params, start)
    assert all(jax.tree.leaves(same["image"])) and not same["text"]["token_embedding"]
    assert 0.0 <= float(state.params["logit_scale"]) <= np.log(100.0) + 1e-6
