import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.tasks import make_task

SMALL_IMAGE = dict(image=dict(patch_size=4, width=16, depth=1, num_heads=2, mlp_dim=24))
RESNET = dict(image_tower="modified_resnet", image=dict(blocks=(1, 1, 1, 1), width=8), image_projection_bias=True)


def config_of(image=SMALL_IMAGE, **changes):
    c = base_config()
    c.task, c.data.templates, c.data.context_length = "contrastive", ("{}",), 32
    c.data.image_size = 16
    c.model = dict(name="clip_vit_b16", embed_dim=8, text_width=16, text_depth=1, text_num_heads=2, **image)
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (c[section] if section else c)[name] = value
    return c


def task_of(config):
    return make_task(config, open_source("digits:train"))


def batch_of(mask, task, seed=0):
    rng = np.random.default_rng(seed)
    size = task.config.data.image_size
    images = rng.integers(0, 256, (len(mask), size, size, 3), np.uint8)
    tokens = task.tokenizer([f"the number {i}" for i in rng.permutation(len(mask))])
    return {"image": images, "tokens": tokens, "label": np.zeros(len(mask), np.int32), "mask": np.array(mask, bool)}


def variables_of(task, batch):
    return jax.device_get(jax.jit(task.init)(jax.random.key(0), jax.tree.map(lambda x: x[:1], batch)))


def gradients(task, variables, batch, key=None):
    """(loss, gradients of the parameters, updated collections, metrics)."""

    def loss(params):
        value, (updated, metrics) = task.loss({**variables, "params": params}, batch, key, train=True)
        return value, (updated, metrics)

    (value, (updated, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return value, grads, updated, metrics


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_loss_is_that_of_the_valid_pairs_alone(name):
    config = config_of(loss__name=name)
    if name == "sigmoid":
        config.model.logit_bias_init = -3.0
    task = task_of(config)
    batch = batch_of([True, True, False, True, False, True], task)
    variables = variables_of(task, batch)
    loss, _, _, metrics = gradients(task, variables, batch)
    valid = batch["mask"]
    images = (batch["image"][valid] / 255 - 0.5) / 0.5
    image, text, scale = task.model.apply(variables, images.astype(np.float32), batch["tokens"][valid])
    logits = np.float64(scale) * np.float64(image) @ np.float64(text).T
    if name == "softmax":
        by_row, by_column = (np.diag(m) - np.log(np.exp(m).sum(1)) for m in (logits, logits.T))
        expected = -(by_row + by_column).mean() / 2
    else:
        signs = 2 * np.eye(len(logits)) - 1
        expected = np.log1p(np.exp(-signs * (logits - 3.0))).sum(1).mean()
    chex.assert_trees_all_close(loss, np.float32(expected), rtol=1e-5)
    assert metrics["loss"][1] == 4 and metrics["logit_scale"][0] == scale


@pytest.mark.parametrize(("name", "parts"), [("softmax", 2), ("sigmoid", 4)])
def test_parts_of_the_batch_give_the_whole_batch_s_gradients(name, parts):
    results = []
    for accumulate in (1, parts):
        config = config_of(loss__name=name, optimizer__accumulate=accumulate)
        config.model.logit_bias_init = -10.0 if name == "sigmoid" else None
        task = task_of(config)
        batch = batch_of([True] * 5 + [False] + [True] * 2, task)
        results.append(gradients(task, variables_of(task, batch), batch, jax.random.key(1))[:2])
    assert float(jnp.abs(results[0][1]["image_projection"]["kernel"]).max()) > 1e-3
    chex.assert_trees_all_close(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_parts_hold_one_part_s_activations():
    def scratch(accumulate):
        task = task_of(config_of(optimizer__accumulate=accumulate))
        batch = batch_of([True] * 64, task)
        variables = variables_of(task, batch)
        grad = jax.jit(jax.grad(lambda params: task.loss({"params": params}, batch, None, train=True)[0]))
        return grad.lower(variables["params"]).compile().memory_analysis().temp_size_in_bytes

    assert scratch(8) < scratch(1) / 3


def test_statistics_of_the_image_tower_follow_the_parts_of_the_batch():
    def statistics(accumulate):
        task = task_of(config_of(RESNET, data__image_size=32, optimizer__accumulate=accumulate))
        return task, jax.jit(lambda variables, batch: task.loss(variables, batch, None, train=True)[1][0])

    task, update = statistics(1)
    batch = batch_of([True] * 8, task)
    start = variables_of(task, batch)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), update(start, batch)["batch_stats"], start["batch_stats"])
    assert all(jax.tree.leaves(moved))
    variables = start
    for part in (0, 1):  # each from what the one before it left
        variables = {**variables, **update(variables, jax.tree.map(lambda x, part=part: x[part::2], batch))}
    in_parts = statistics(2)[1](start, batch)["batch_stats"]
    chex.assert_trees_all_close(in_parts, variables["batch_stats"], rtol=1e-4, atol=1e-5)


def test_the_scale_is_kept_between_1_and_100():
    task = task_of(config_of())
    for value, kept in ((-1.0, 0.0), (2.5, 2.5), (7.0, math.log(100.0))):
        params = task.constrain({"logit_scale": jnp.float32(value), "other": jnp.ones(2)})
        assert float(params["logit_scale"]) == pytest.approx(kept) and params["other"].sum() == 2


def test_the_sigmoid_loss_leaves_the_scale_alone():
    task = task_of(config_of(loss__name="sigmoid", model=dict(logit_bias_init=-10.0)))
    params = {"logit_scale": jnp.float32(math.log(117.33))}
    chex.assert_trees_all_equal(task.constrain(params), params)


def test_embeddings_are_the_model_s_own():
    task = task_of(config_of())
    batch = batch_of([True] * 3, task)
    variables = variables_of(task, batch)
    image, text, _ = task.model.apply(variables, task.images(batch), batch["tokens"])
    chex.assert_trees_all_close(task.image_embeddings(variables, batch), image, rtol=1e-6)
    chex.assert_trees_all_close(task.text_embeddings(variables, batch["tokens"]), text, rtol=1e-6)
    features = task.model.apply(variables, task.images(batch), method=CLIP.image_features)
    chex.assert_trees_all_close(task.features(variables, batch), features, rtol=1e-6)
    assert features.shape == (3, 16)


def test_the_model_reads_the_tokenizer_s_vocabulary():
    config = config_of(data__context_length=20)
    task = task_of(config)
    assert (task.config.model.vocab_size, task.config.model.context_length) == (259, 20)
    assert "vocab_size" not in config.model  # which is another's
    assert (task.model.vocab_size, task.model.context_length) == (259, 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(data__augment=dict(mixup=0.2)), ["data.augment.mixup", "contrastive"]),
        (dict(loss__label_smoothing=0.1), ["loss.label_smoothing"]),
        (dict(loss__name="sigmoid"), ["logit_bias_init", "sigmoid", "-10"]),
        (dict(model=dict(logit_bias_init=-10.0)), ["logit_bias_init", "softmax"]),
        (dict(model=dict(vocab_size=100)), ["vocab_size=100", "259", "bytes"]),
        (dict(data__tokenizer="byte"), ["'byte'", "'bytes'"]),
        (dict(model=dict(name="vit_s16")), ["vit_s16"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings(change, words):
    with pytest.raises(ConfigError) as error:
        task_of(config_of(**change))
    assert all(word in str(error.value) for word in words)
