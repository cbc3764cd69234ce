"""The contrastive losses against naive ones with the whole matrix, alone and on eight devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision_jax.ops import contrastive
from vision_jax.ops.contrastive import sigmoid_contrastive_loss, softmax_contrastive_loss
from vision_jax.ops.sharding import BATCH_AXES


def naive_softmax(image, text, scale, bias, mask):
    del bias
    logits = jnp.where(mask[:, None] & mask, scale * jnp.matmul(image, text.T, precision="highest"), -1e9)
    losses = -jnp.diag(jax.nn.log_softmax(logits, 0) + jax.nn.log_softmax(logits, 1)) / 2
    return jnp.where(mask, losses, 0.0)


def naive_sigmoid(image, text, scale, bias, mask):
    logits = scale * jnp.matmul(image, text.T, precision="highest") + bias
    signs = 2 * jnp.eye(len(image)) - 1
    pairs = jnp.where(mask, -jax.nn.log_sigmoid(signs * logits), 0.0)
    return jnp.where(mask, pairs.sum(-1), 0.0)


def softmax(image, text, scale, bias, mask):
    return softmax_contrastive_loss(image, text, scale, mask) + 0.0 * bias


LOSSES = {"softmax": (softmax, naive_softmax), "sigmoid": (sigmoid_contrastive_loss, naive_sigmoid)}


def pairs(count, width=24, seed=0, broken=3):
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, count, width)).astype(np.float32)
    text = image + 0.5 * text
    image, text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    mask = np.arange(count) % 7 != broken
    return image, text, np.float32(1 / 0.07), np.float32(-10.0), mask


def value_and_grads(loss, args, weights):
    return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(loss(*a, args[-1]) * weights), argnums=(0, 1, 2, 3)))(
        *args[:4]
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("count", "scratch"), [(1, 2**22), (37, 2**22), (37, 37 * 5), (64, 64 * 64), (53, 1)])
def test_losses_and_gradients_are_the_naive_ones_in_any_chunks(name, count, scratch, monkeypatch):
    monkeypatch.setattr(contrastive, "SCRATCH", scratch)
    ours, naive = LOSSES[name]
    args = pairs(count)
    weights = np.random.default_rng(1).random(count).astype(np.float32)  # a loss that is not the plain mean
    chex.assert_trees_all_close(ours(*args), naive(*args), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(
        value_and_grads(ours, args, weights), value_and_grads(naive, args, weights), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_the_global_loss_on_eight_devices_is_that_of_one(name, shape, monkeypatch):
    monkeypatch.setattr(contrastive, "SCRATCH", 40)  # several chunks on every device
    ours, naive = LOSSES[name]
    args = pairs(64)
    expected = value_and_grads(naive, args, 1 / 64)
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    placed = [jax.device_put(x, rows) if np.ndim(x) else x for x in args]
    with jax.set_mesh(mesh):
        loss, grads = value_and_grads(ours, placed, 1 / 64)
    assert grads[0].sharding.is_equivalent_to(rows, 2)
    chex.assert_trees_all_close((loss, grads), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_as_large_as_the_matrix(name, monkeypatch):
    monkeypatch.setattr(contrastive, "SCRATCH", 2**14)
    ours, naive = LOSSES[name]

    def scratch(loss, count):
        compiled = jax.jit(jax.grad(lambda *a: loss(*a[:4], a[4]).sum(), argnums=(0, 1))).lower(*pairs(count)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert scratch(naive, 2048) >= 4 * 2048**2
    assert scratch(ours, 2048) < 2048**2
    assert scratch(ours, 2048) < 2.5 * scratch(ours, 1024)  # twice the batch, twice the memory


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_valid_pair_has_no_loss_and_no_gradient(name):
    *args, mask = pairs(8)
    loss, grads = value_and_grads(LOSSES[name][0], (*args, np.zeros_like(mask)), 1.0)
    chex.assert_trees_all_equal((loss, grads), jax.tree.map(np.zeros_like, (loss, grads)))


def test_what_an_untrained_model_loses():
    # All pairs equally similar: log N, whatever the scale.
    ones = np.ones((16, 1), np.float32)
    losses = softmax_contrastive_loss(ones, ones, np.float32(100.0), np.ones(16, bool))
    chex.assert_trees_all_close(losses, np.full(16, np.log(16.0), np.float32), rtol=1e-5)
