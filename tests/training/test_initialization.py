import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.models import ViT
from vision_jax.models.stacking import stack_blocks
from vision_jax.ops.resampling import resize_posemb
from vision_jax.training.initialization import merge


def vit(size, **fields):
    """(model, parameters as numpy arrays) of a small ViT on images of that size; nothing in them is zero."""
    model = ViT(**dict(num_classes=10, patch_size=4, width=8, depth=2, num_heads=2, mlp_dim=16) | fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]
    rng = np.random.default_rng(len(fields))
    return model, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_the_same_model_is_loaded_whole():
    model, params = vit((8, 8))
    _, fresh = vit((8, 8), head_bias_init=1.0)
    merged, report = merge(params, 8, model, 8, fresh)
    chex.assert_trees_all_equal(merged, params)
    assert not report.resized and not report.dropped and not report.new


@pytest.mark.parametrize("scan", [False, True])
def test_another_resolution_layout_and_number_of_classes(scan):
    """From a square to a rectangle, into scanned layers too: positions resampled, the head new and zero."""
    _, params = vit((8, 8), representation_size=6)
    model, fresh = vit((12, 20), num_classes=7, scan=scan)
    merged, report = merge(params, 8, model, (12, 20), fresh)
    expected = resize_posemb(params["pos_embed"], (2, 2), (3, 5), 1)
    np.testing.assert_array_equal(merged["pos_embed"], expected)
    np.testing.assert_array_equal(merged["pos_embed"][:, 0], params["pos_embed"][:, 0])
    body = stack_blocks(params) if scan else params
    names = ["blocks"] if scan else ["blocks_0", "blocks_1"]
    chex.assert_trees_all_equal([merged[name] for name in names], [body[name] for name in names])
    chex.assert_trees_all_equal(merged["head"], {"kernel": np.zeros((8, 7)), "bias": np.zeros(7)})
    assert report.resized == ["pos_embed"]
    assert sorted(report.new) == ["head/bias", "head/kernel"]
    assert sorted(report.dropped) == ["head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel"]
    assert all(word in str(report) for word in ("resized: pos_embed", "newly initialised: head", "dropped: "))


def test_a_body_of_another_shape_is_an_error():
    _, params = vit((8, 8))
    model, fresh = vit((8, 8), mlp_dim=32)
    with pytest.raises(ConfigError, match=r"mlp/fc1.*16.*32"):
        merge(params, 8, model, 8, fresh)
    with pytest.raises(ConfigError, match="nothing"):
        merge({"other": np.zeros(3)}, 8, model, 8, fresh)


def test_the_report_names_modules_rather_than_every_parameter():
    _, params = vit((8, 8))
    decoder = {f"blocks_{i}": {"kernel": np.zeros(3), "bias": np.zeros(3)} for i in range(4)}
    model, fresh = vit((8, 8), num_classes=7)
    _, report = merge(params | {"decoder": decoder}, 8, model, 8, fresh)
    dropped = next(line for line in str(report).splitlines() if "dropped" in line)
    assert dropped == "10 dropped: head/bias, head/kernel, decoder/*"
