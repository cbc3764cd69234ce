"""A frozen module is the function that evaluation sees: parameters, statistics and outputs."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vision_jax as vj
from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.tasks import make_task
from vision_jax.training.freezing import frozen_as_evaluated, is_frozen
from vision_jax.training.state import create_state
from vision_jax.training.step import train_step


class Tower(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(nn.Dense(8, name="dense")(x))
        return nn.Dropout(0.5)(x, deterministic=not train)


class Towers(nn.Module):
    """Two towers and a head, each of which is told whether it trains in a way of its own."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        left, right = Tower(name="left")(x, train), nn.remat(Tower, static_argnums=(2,))(name="right")(x, train)
        y = nn.BatchNorm(momentum=0.5, name="last_norm")(left + right, use_running_average=not train)
        bare = nn.BatchNorm(momentum=0.5, use_bias=False, use_scale=False, name="bare")
        return nn.Dense(3, name="head")(bare(y, use_running_average=not train)), (left, right)


class Toy:
    separable = True

    def loss(self, variables, batch, rng, train):
        (y, towers), updated = Towers().apply(
            variables,
            batch["x"],
            train,
            rngs={"dropout": rng},
            mutable=[name for name in variables if name != "params"],
        )
        total, count = (y**2).sum(), jnp.float32(len(y))
        return total / count, (updated, {"loss": (total, count)} | {"left": (towers[0].sum(), 1.0)})

    def constrain(self, params):
        return jax.tree.map(lambda p: p + 1.0, params)


VARIABLES = jax.device_get(Towers().init(jax.random.key(0), jnp.ones((1, 4))))
BATCH = {"x": jax.random.normal(jax.random.key(1), (6, 4)), "mask": jnp.ones(6, bool)}


def stepped(*frozen, ema=False, batch=BATCH, steps=2):
    """(state before, state after, metrics) of steps in which the modules named do not train."""
    trains = {name: jax.tree.map(lambda _, n=name: n not in frozen, p) for name, p in VARIABLES["params"].items()}
    optimizer = optax.sgd(0.1)
    step = jax.jit(
        functools.partial(train_step, task=Toy(), optimizer=optimizer, seed=0, trains=trains, ema_decay=0.5 * ema)
    )
    before = after = create_state(VARIABLES, optimizer, ema)
    for _ in range(steps):
        after, metrics = step(after, batch)
    return before, after, metrics


def changed(before, after, name):
    """Whether any number below `name` is another."""
    one, other = ([tree.get(name, {}) for tree in state.variables.values()] for state in (before, after))
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), one, other)))


def test_frozen_modules_keep_parameters_and_statistics_whatever_constrain_says():
    before, after, metrics = stepped("left", "right", "last_norm")
    assert [changed(before, after, name) for name in ("left", "right", "last_norm")] == [False] * 3
    assert changed(before, after, "bare") and changed(before, after, "head")  # one without parameters is not frozen
    expected = Towers().apply(VARIABLES, BATCH["x"])[1][0].sum()
    np.testing.assert_allclose(metrics["left"], expected, rtol=1e-6)  # no dropout, and the stored statistics


def test_what_trains_beside_them_changes_as_ever():
    before, after, _ = stepped("left")
    assert not changed(before, after, "left")
    assert all(changed(before, after, name) for name in ("right", "last_norm", "bare", "head"))


def test_a_module_with_one_parameter_that_trains_is_not_frozen():
    assert is_frozen({"a": {"b": False, "c": {"d": False}}}, ("a",))
    assert not is_frozen({"a": {"b": False, "c": {"d": True}}}, ("a",))
    assert is_frozen({"a": {"b": True, "c": {"d": False}}}, ("a", "c"))
    assert not is_frozen({"a": {"b": False}}, ("a", "missing")) and not is_frozen({"a": {}}, ("a",))


def test_the_average_holds_statistics_too_and_is_what_evaluation_sees():
    before, after, _ = stepped("left", ema=True, steps=1)
    expected = jax.tree.map(lambda old, new: old + 0.9 * (new - old), before.variables, after.variables)
    chex.assert_trees_all_close(after.eval_variables, expected, rtol=1e-6)
    chex.assert_trees_all_equal(after.eval_variables["batch_stats"]["left"], before.variables["batch_stats"]["left"])


def test_a_batch_without_a_valid_example_changes_nothing_and_is_counted():
    before, after, metrics = stepped(ema=True, batch=BATCH | {"mask": jnp.zeros(6, bool)})
    for part in ("params", "collections", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
    assert (int(after.step), int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (2, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_locked_resnet_of_a_clip_gives_what_evaluation_gives(remat):
    c = base_config()
    c.task, c.data.templates, c.data.context_length, c.data.image_size = "contrastive", ("{}",), 8, 16
    tower = dict(image_tower="modified_resnet", image=dict(blocks=(1,), width=4, num_heads=2), remat=remat)
    c.model = dict(name="clip_rn50", embed_dim=4, text_width=8, text_depth=1, text_num_heads=2, **tower)
    task = make_task(c, open_source("digits:train"))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    batch = {"image": images, "tokens": task.tokenizer(["one", "two", "three"])}
    variables = task.init(jax.random.key(0), batch)
    trains = {name: jax.tree.map(lambda _, n=name: n != "image", p) for name, p in variables["params"].items()}

    def embed(train, trains=None):
        with frozen_as_evaluated(trains):
            return task.embed(variables, batch, jax.random.key(1), train)

    (image, _), updated = jax.jit(lambda: embed(True, trains))()
    (expected, _), _ = jax.jit(lambda: embed(False))()
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(updated["batch_stats"], variables["batch_stats"])
    assert np.abs(jax.jit(lambda: embed(True))()[0][0] - image).max() > 1e-3  # where it is not locked


def test_a_frozen_stack_of_scanned_layers_is_called_as_ever():
    """Which flax does by a function of its own."""
    model = vj.create_model(
        "vit_ti16", patch_size=8, width=8, depth=2, num_heads=1, mlp_dim=8, scan=True, num_classes=2
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    trains = {name: jax.tree.map(lambda _, n=name: n == "head", p) for name, p in variables["params"].items()}
    with frozen_as_evaluated(trains):
        shape = jax.eval_shape(lambda: model.apply(variables, jnp.zeros((3, 16, 16, 3)), train=True)).shape
    assert shape == (3, 2)
