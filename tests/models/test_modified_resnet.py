import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, flat
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import ModifiedResNet

IMAGES = np.random.default_rng(0).normal(size=(4, 32, 64, 3)).astype(np.float32)


def test_initial_resnet():
    """Standard deviations of openai/CLIP, clip/model.py; torch's own uniform convolutions and biases."""
    image = {"blocks": (1, 1), "width": 16}
    model = vj.create_model("clip_rn50", image=image, embed_dim=64, text_depth=1, vocab_size=9)
    tokens = np.zeros((4, 77), np.int32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), IMAGES, tokens, train=True))()
    params, features = flat(variables["params"]), 4 * 16 * 2
    for name in ("image/attn_pool/query/kernel", "image_projection/kernel", "image/attn_pool/pos_embed"):
        np.testing.assert_allclose(np.std(params[name]), features**-0.5, rtol=0.05)
    for name in ("image/attn_pool/key/bias", "image_projection/bias"):
        assert 0.8 * features**-0.5 < np.abs(params[name]).max() <= features**-0.5
    bound = (9 * 16) ** -0.5
    assert 0.9 * bound < np.abs(params["image/stages_0/units_0/conv2/kernel"]).max() <= bound
    assert not params["image/stages_1/units_0/bn3/scale"].any()
    assert (params["image/stages_1/units_0/bn_proj/scale"] == 1).all()
    for name, x in flat(variables["batch_stats"]).items():  # untouched by the batch that they are made with
        assert (x == (0 if name.endswith("mean") else 1)).all()


def test_wrong_fields():
    for image, words in (
        ({"width": 5}, "width.*5.*even"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"blocks": ()}, "blocks"),
    ):
        with pytest.raises(ConfigError, match=words):
            vj.create_model("modified_resnet", **image)
    with pytest.raises(ConfigError, match="16x32"):
        draw(ModifiedResNet(width=4), IMAGES[:, :16, :32])


def resnet_step(model, variables, images):
    """Gradients of the parameters and the updated statistics of a tower in training."""

    def loss(params):
        x, updated = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return (x**2).mean(), updated

    return jax.grad(loss, has_aux=True)(variables["params"])


def test_recomputed_bottlenecks_give_the_same():
    model = ModifiedResNet(num_classes=0, blocks=(2,), width=4)
    images = IMAGES[:, :16, :32]
    variables = draw(model, images)
    plain = jax.jit(functools.partial(resnet_step, model))(variables, images)
    remat = jax.jit(functools.partial(resnet_step, model.clone(remat="full")))(variables, images)
    chex.assert_trees_all_close(plain, remat, rtol=1e-3, atol=1e-5)
    assert all(map(jnp.any, jax.tree.leaves(plain[0]["stages_0"])))


def test_statistics_are_those_of_the_global_batch():
    model = ModifiedResNet(num_classes=0, blocks=(1,), width=4)
    images = np.random.default_rng(3).normal(size=(8, 16, 16, 3)).astype(np.float32)
    images *= np.arange(1, 9)[:, None, None, None]  # no device's share looks like another's
    variables = draw(model, images)
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    expected = jax.jit(run)(variables, images)
    mesh = jax.make_mesh((4, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        got = jax.jit(run)(variables, jax.device_put(images, NamedSharding(mesh, PartitionSpec(("data", "fsdp")))))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not got[0].sharding.is_fully_replicated
    before, after = flat(variables["batch_stats"]), flat(got[1]["batch_stats"])
    assert before.keys() == after.keys() and all(jnp.any(after[name] != before[name]) for name in before)
