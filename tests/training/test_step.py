"""The train step against a step written by hand, over meshes, in micro-batches, with updates that are not finite."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.command_line import load_config
from vision_jax.models.stacking import stack_blocks
from vision_jax.training.setup import compile_step, prepare
from vision_jax.training.step import train_step


def tiny(**changes):
    c = load_config("configs/vit_digits.py")
    c.model = dict(width=32, depth=2, num_heads=2, mlp_dim=48, pool="token", act="gelu")
    c.batch_size, c.duration, c.schedule.warmup = 16, "40 steps", "2 steps"
    c.log.compile_cache = ""
    for key, value in changes.items():
        section = functools.reduce(lambda s, name: s[name], key.split("__")[:-1], c)
        section[key.split("__")[-1]] = value
    return c


def random_batch(step, size=16):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (size, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 10, size, np.int32),
        "mask": rng.random(size) > 0.2,
    }


def place(setup, batch):
    """On the devices, of the batch what the task's own hold."""
    return {name: jax.device_put(batch[name], like.sharding) for name, like in setup.abstract_batch.items()}


def run(config, steps, devices=None, batch=random_batch):
    """(what was prepared, final state, metrics of every step), on one device unless told otherwise."""
    setup = prepare(config, devices or jax.devices()[:1])
    with jax.set_mesh(setup.mesh):
        state = jax.jit(setup.create, out_shardings=setup.shardings)()
        step_fn = compile_step(setup)
        metrics = []
        for step in range(steps):
            state, values = step_fn(state, place(setup, batch(step)))
            metrics.append(jax.device_get(values))
    return setup, state, metrics


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def loss_by_hand(params, images, labels, mask):
    """A ViT, its cross-entropy and nothing of ours; images uint8[B, 16, 16, 3], patches of 4, 2 heads."""
    x = (images / 255.0 - 0.5) / 0.5
    x = jnp.stack([x[:, i : i + 4, j : j + 4].reshape(len(x), 48) for i in range(0, 16, 4) for j in range(0, 16, 4)], 1)
    x = x @ params["patch_embed"]["kernel"].reshape(48, 32) + params["patch_embed"]["bias"]
    x = jnp.concatenate([jnp.broadcast_to(params["cls_token"], (len(x), 1, 32)), x], 1) + params["pos_embed"]
    for p in (params["blocks_0"], params["blocks_1"]):
        y = norm(x, p["norm1"])
        heads = []
        for h in (slice(0, 16), slice(16, 32)):
            q, k, v = (dense(y, p["attn"][name])[..., h] for name in ("query", "key", "value"))
            logits = jnp.einsum("bqd,bkd->bqk", q, k) / 4.0
            weights = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
            heads.append(weights @ v)
        x = x + dense(jnp.concatenate(heads, -1), p["attn"]["out"])
        y = dense(norm(x, p["norm2"]), p["mlp"]["fc1"])
        x = x + dense(0.5 * y * (1 + jax.scipy.special.erf(y / 2**0.5)), p["mlp"]["fc2"])
    logits = dense(norm(x, params["norm"])[:, 0], params["head"])
    losses = jnp.log(jnp.exp(logits).sum(-1)) - logits[jnp.arange(len(labels)), labels]
    return (losses * mask).sum() / mask.sum()


def test_the_step_equals_one_written_by_hand():
    config = tiny(optimizer__clip_norm=0.0, optimizer__weight_decay=0.1)
    setup, state, metrics = run(config, 3)
    params = jax.device_get(jax.jit(setup.create)().params)
    first = second = jax.tree.map(jnp.zeros_like, params)
    for step in range(3):
        batch = random_batch(step)
        loss, grads = jax.value_and_grad(loss_by_hand)(params, *(batch[k] for k in ("image", "label", "mask")))
        np.testing.assert_allclose(metrics[step]["loss"], loss, rtol=1e-5)
        rate = [0.0, 5e-4, 1e-3][step]
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        t = step + 1

        def update(path, p, m, v, t=t, rate=rate):
            decay = 0.1 * p if path[-1].key == "kernel" else 0.0
            return p - rate * (m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay)

        params = jax.tree_util.tree_map_with_path(update, params, first, second)
    chex.assert_trees_all_close(jax.device_get(state.params), params, rtol=1e-3, atol=1e-5)


MESHES = {"one device": None, "data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}


def on_mesh(name, **changes):
    sizes = MESHES[name] or (1, 1, 1)
    mesh = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    return tiny(mesh=mesh | {"fsdp_min_size": 1000}, **changes), jax.devices()[: 8 if MESHES[name] else 1]


@pytest.fixture(scope="module")
def one_device():
    config, devices = on_mesh("one device")
    return [float(m["loss"]) for m in run(config, 20, devices)[2]]


@pytest.mark.parametrize("name", ["data", "fsdp", "mixed"])
def test_meshes_give_the_same_losses(name, one_device):
    config, devices = on_mesh(name)
    _, state, metrics = run(config, 20, devices)
    np.testing.assert_allclose([m["loss"] for m in metrics], one_device, rtol=1e-4)
    assert one_device[-1] != one_device[0]
    if name == "fsdp":
        moments = state.opt_state
        for tree in (state.params, moments):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if leaf.size >= 1000:
                    assert leaf.addressable_shards[0].data.size * 8 == leaf.size, path


def test_the_step_is_traced_once():
    setup = prepare(tiny(mesh__fsdp=8))

    @chex.assert_max_traces(n=1)
    def step(state, batch):
        return train_step(state, batch, task=setup.task, optimizer=setup.optimizer, seed=0)

    with jax.set_mesh(setup.mesh):
        step_fn = jax.jit(step, donate_argnums=0, out_shardings=(setup.shardings, None))
        state = jax.jit(setup.create, out_shardings=setup.shardings)()
        for number in range(3):
            state, _ = step_fn(state, place(setup, random_batch(number)))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_equal_the_full_batch(accumulate):
    """Also where micro-batches hold different numbers of valid examples."""
    whole = run(tiny(mesh__data=2), 3, jax.devices()[:2])
    parts = run(tiny(mesh__data=2, optimizer__accumulate=accumulate), 3, jax.devices()[:2])
    for a, b in zip(whole[2], parts[2], strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(whole[1].params, parts[1].params, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [dict(remat="dots"), dict(scan=True, remat="full")])
def test_scan_and_remat_change_nothing(fields):
    plain, _, expected = run(tiny(), 3)
    setup = prepare(tiny(model=fields), jax.devices()[:1])
    state = jax.jit(plain.create)()
    if fields.get("scan"):  # which draws other random numbers at initialisation
        params = stack_blocks(state.params)
        state = state.replace(params=params, opt_state=setup.optimizer.init(params))
    step_fn = jax.jit(functools.partial(train_step, task=setup.task, optimizer=setup.optimizer, seed=0))
    for step in range(3):
        state, metrics = step_fn(state, random_batch(step))
        np.testing.assert_allclose(metrics["loss"], expected[step]["loss"], rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], expected[step]["grad_norm"], rtol=1e-4)


def test_an_update_that_is_not_finite_is_skipped_whole():
    config = tiny(optimizer__ema=0.9)
    setup = prepare(config, jax.devices()[:1])
    step_fn = jax.jit(functools.partial(train_step, task=setup.task, optimizer=setup.optimizer, seed=0, ema_decay=0.9))
    state, _ = step_fn(jax.jit(setup.create)(), random_batch(0))
    poisoned = state.replace(params=jax.tree.map(lambda p: p.at[(0,) * p.ndim].set(jnp.inf), state.params))
    after, metrics = step_fn(poisoned, random_batch(1))
    chex.assert_trees_all_equal(after.params, poisoned.params)
    chex.assert_trees_all_equal(after.opt_state, poisoned.opt_state)
    chex.assert_trees_all_equal(after.ema, poisoned.ema)
    assert (int(after.step), int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (2, 1, 1)
    recovered, metrics = step_fn(after.replace(params=state.params), random_batch(2))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (1, 0) and int(recovered.step) == 3


def test_broken_images_count_for_nothing():
    batch = random_batch(0)
    other = dict(batch, image=np.where(batch["mask"][:, None, None, None], batch["image"], 255))
    a, b = (run(tiny(), 1, batch=lambda _, which=which: which) for which in (batch, other))
    chex.assert_trees_all_equal(a[1], b[1])
    assert int(a[2][0]["broken"]) == int((~batch["mask"]).sum()) > 0


def test_bfloat16_keeps_parameters_and_losses_in_float32():
    _, state, metrics = run(tiny(precision__compute="bfloat16"), 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics[-1]["loss"].dtype == jnp.float32
    exact = run(tiny(), 2)[2]
    np.testing.assert_allclose(metrics[-1]["loss"], exact[-1]["loss"], rtol=0.02)
