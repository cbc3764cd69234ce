import functools

import jax
import numpy as np
import pytest

from vision_jax.command_line import load_config
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.models.mae import MAE
from vision_jax.tasks import make_task

SMALL = dict(width=16, depth=1, num_heads=2, mlp_dim=24)
SMALL |= dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=12)


def config_of(**model):
    c = load_config("configs/mae_digits.py")
    c.model = SMALL | model
    c.data.image_size, c.data.mean, c.data.std = 16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    return c


def task_of(config):
    return make_task(config, open_source("digits:train"))


def batch_of(mask, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(mask), 16, 16, 3), np.uint8)
    return {"image": images, "label": np.zeros(len(mask), np.int32), "mask": np.array(mask, bool)}


@pytest.fixture(scope="module")
def task():
    return task_of(config_of(norm_pix_loss=True))


@pytest.fixture(scope="module")
def variables(task):
    return jax.device_get(jax.jit(task.init)(jax.random.key(0), batch_of([True])))


@functools.partial(jax.jit, static_argnums=0)
def compiled(task, variables, batch, key):
    return task.loss(variables, batch, key, train=True)


def run(task, variables, batch, key=None):
    """(loss, metrics' (sum, count))."""
    loss, (updated, metrics) = jax.device_get(compiled(task, variables, batch, key))
    assert updated == {}
    return loss, metrics


def test_the_loss_is_the_model_s_own_on_the_valid_images(task, variables):
    mask, key = [True, False, True, True], jax.random.key(3)
    batch = batch_of(mask)
    loss, metrics = run(task, variables, batch, key)
    images = (batch["image"] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    images = images.astype(np.float32)
    apply = jax.jit(task.model.apply)
    # The same noise as the task drew, for the valid images alone: their patches in order of it.
    noise = jax.jit(lambda: task.model.apply(variables, rngs={"masking": key}, method=lambda m: m.make_rng("masking")))
    noise = np.asarray(jax.random.uniform(noise(), (4, 16)))
    expected, _, hidden = apply(variables, images[mask], noise[mask])
    assert hidden.sum() == 3 * 12
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], expected, rtol=1e-5)
    assert metrics["loss"][1] == 3 and set(metrics) == {"loss"}


def test_broken_images_count_for_nothing(task, variables):
    batch = batch_of([True, False, True, True])
    other = dict(batch, image=np.where(batch["mask"][:, None, None, None], batch["image"], 255))
    key = jax.random.key(0)

    grads = jax.jit(jax.grad(lambda v, batch: task.loss(v, batch, key, train=True)[0]))
    assert run(task, variables, batch, key) == run(task, variables, other, key)
    jax.tree.map(np.testing.assert_array_equal, grads(variables, batch), grads(variables, other))
    loss, metrics = run(task, variables, batch_of([False] * 4), key)
    assert (loss, metrics["loss"]) == (0, (0, 0))


def test_what_is_hidden_follows_from_the_key(task, variables):
    batch = batch_of([True] * 4)
    losses = [run(task, variables, batch, key)[0] for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))]
    assert losses[0] == losses[1] != losses[2]
    assert run(task, variables, batch)[0] == run(task, variables, batch)[0]  # evaluation: always the same


def test_features_are_of_whole_images(task, variables):
    batch = batch_of([True] * 3)
    features = jax.jit(task.features)(variables, batch)
    images = ((batch["image"] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).astype(np.float32)
    expected = jax.jit(lambda v, x: task.model.apply(v, x, method=MAE.encode))(variables, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert features.shape == (3, 16)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "erase_prob"])
def test_mixing_does_not_belong_here(name):
    config = config_of()
    config.data.augment[name] = 0.5
    with pytest.raises(ConfigError, match=rf"augment\.{name}.*masked autoencoding"):
        task_of(config)


def test_only_a_masked_autoencoder_will_do():
    config = load_config("configs/vit_digits.py")
    config.task = "masked_autoencoding"
    with pytest.raises(ConfigError, match=r"model\.name='vit_ti16'.*mae_vit"):
        task_of(config)


def test_a_masked_autoencoder_is_no_classifier():
    config = config_of()
    config.task = "classification"
    with pytest.raises(ConfigError, match="mae_vit_b16"):
        task_of(config)
