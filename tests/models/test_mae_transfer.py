"""An MAE's encoder as a classifier's: what fine-tuning and the linear probe take over, add and draw anew."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.command_line import load_config
from vision_jax.errors import ConfigError
from vision_jax.models import ViT, stack_blocks
from vision_jax.ops.posemb import sincos2d
from vision_jax.training.initialization import merge

SMALL = dict(width=16, depth=2, num_heads=2, mlp_dim=24)


def model_of(config, **fields):
    model = {**load_config(f"configs/{config}.py").model, **SMALL, **fields}
    return vj.create_model(model.pop("name"), **model)


def shapes_of(model, size=(32, 32)):
    rngs = {"params": jax.random.key(0), "masking": jax.random.key(1)}
    return jax.eval_shape(model.init, rngs, jnp.zeros((1, *size, 3)))["params"]


@pytest.fixture(scope="module")
def pretrained():
    """Parameters of an MAE as after training: none is zero."""
    rng = np.random.default_rng(0)
    shapes = shapes_of(model_of("mae_digits"))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def fresh_of(model, size):
    return jax.device_get(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *size, 3)))["params"])


@pytest.mark.parametrize(("scan", "size"), [(False, (32, 32)), (True, (24, 32))])
def test_fine_tuning_starts_from_the_encoder(pretrained, scan, size):
    """Also on a rectangle and into scanned layers: the positions are those of its own grid."""
    model = model_of("mae_digits_finetune", scan=scan, num_classes=40)
    fresh = fresh_of(model, size)
    merged, report = merge(pretrained, 32, model, size, fresh)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, shapes_of(model, size))
    body = stack_blocks(pretrained) if scan else pretrained
    names = ["cls_token", "patch_embed", *(["blocks"] if scan else ["blocks_0", "blocks_1"])]
    chex.assert_trees_all_equal([merged[name] for name in names], [body[name] for name in names])
    new = ("fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel", "pos_embed")
    assert sorted(report.new) == sorted(new) and not report.resized
    assert {name for name in report.dropped if not name.startswith("decoder/")} == {"norm/bias", "norm/scale"}
    assert len(report.dropped) == 2 + len(jax.tree.leaves(body["decoder"]))
    grid = (size[0] // 4, size[1] // 4)
    np.testing.assert_array_equal(merged["pos_embed"], sincos2d(grid, 16, prefix=1))
    np.testing.assert_allclose(merged["head"]["kernel"].std(), 2e-5, rtol=0.15)
    np.testing.assert_array_equal(merged["head"]["kernel"], fresh["head"]["kernel"])
    assert (merged["fc_norm"]["scale"] == 1).all() and not merged["fc_norm"]["bias"].any()


def test_the_probe_takes_all_but_the_decoder(pretrained):
    model = model_of("mae_digits_linear_probe", num_classes=40)
    merged, report = merge(pretrained, 32, model, 32, fresh_of(model, (32, 32)))
    assert sorted(report.new) == ["head/bias", "head/kernel"]
    assert all(name.startswith("decoder/") for name in report.dropped)
    np.testing.assert_allclose(merged["head"]["kernel"].std(), 0.01, rtol=0.15)


def test_a_norm_of_the_pooled_features_stands_in_for_that_of_all_tokens():
    fields = {**SMALL, "num_classes": 0, "patch_size": 4, "pool": "gap", "cls_token": True}
    plain, pooled = ViT(**fields), ViT(**fields, norm_pooled=True)
    images = np.random.default_rng(0).normal(size=(3, 8, 12, 3)).astype(np.float32)
    params = fresh_of(plain, (8, 12))
    scale, bias = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    own = {name: value for name, value in params.items() if name != "norm"} | {
        "fc_norm": {"scale": scale, "bias": bias}
    }
    chex.assert_trees_all_equal_shapes(own, shapes_of(pooled, (8, 12)))

    def tokens(m, x):  # what leaves the last block
        return m.transformer(m.embed(x))

    x = np.asarray(jax.jit(lambda p: plain.apply({"params": p}, images, method=tokens))(params))[:, 1:].mean(1)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias
    features = jax.jit(lambda p: pooled.apply({"params": p}, images))(own)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_what_enters_the_head_is_standardised_over_the_batch():
    model = model_of("mae_digits_linear_probe", num_classes=5)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), images))
    assert "head_norm" not in variables["params"]
    statistics = variables["batch_stats"]["head_norm"]
    chex.assert_trees_all_equal(statistics, {"mean": np.zeros(16), "var": np.ones(16)})
    x, head = np.asarray(jax.jit(vj.encode, static_argnums=0)(model, variables, images)), variables["params"]["head"]

    def logits(mean, var):
        return (x - mean) / np.sqrt(var + 1e-6) @ head["kernel"] + head["bias"]

    train = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))
    mean, var = np.zeros(16), np.ones(16)
    for _ in range(2):
        out, updated = jax.device_get(train(variables))
        np.testing.assert_allclose(out, logits(x.mean(0), x.var(0)), rtol=1e-3, atol=1e-5)
        mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0)
        chex.assert_trees_all_close(updated["batch_stats"]["head_norm"], {"mean": mean, "var": var}, rtol=1e-4)
        variables = variables | updated
    evaluated = jax.jit(lambda v: model.apply(v, images))(variables)
    np.testing.assert_allclose(evaluated, logits(mean, var), rtol=1e-4, atol=1e-5)
    assert np.abs(evaluated - out).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight_init": "mea"}, ["'weight_init'", "'mae'"]),
        ({"norm_pooled": True, "pool": "none"}, ["'norm_pooled'", "pool='none'"]),
        ({"posemb": "learn_sincos"}, ["'posemb'", "'learn_sincos2d'"]),
        ({"posemb": "learn_sincos2d", "width": 18}, ["'width'=18", "learn_sincos2d"]),
    ],
)
def test_values_that_cannot_work_are_named(fields, words):
    with pytest.raises(ConfigError) as error:
        vj.create_model("vit_b16", **{**SMALL, **fields})
    assert all(word in str(error.value) for word in words), error.value
