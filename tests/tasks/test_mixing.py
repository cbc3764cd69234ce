import functools
import random

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from vision_jax.errors import ConfigError
from vision_jax.ops.losses import one_hot_targets
from vision_jax.tasks import mixing

MIXUP = dict(mixup=0.8, cutmix=0.0)
CUTMIX = dict(mixup=0.0, cutmix=1.0)
BOTH = dict(mixup=0.8, cutmix=1.0)
mix = jax.jit(mixing.mix, static_argnames=("mixup", "cutmix", "mix_prob", "switch_prob"))
random_erasing = jax.jit(mixing.random_erasing, static_argnames="prob")
erasing_boxes = jax.jit(mixing.erasing_boxes, static_argnums=(1, 2, 3))


def batch_of(count=6, height=9, width=13, classes=10):
    """Random images, and targets that name the examples, so that lambda can be read from the mixture."""
    images = jax.random.normal(jax.random.key(7), (count, height, width, 3))
    return images, one_hot_targets(jnp.arange(count), classes)


@functools.cache
def lambdas_of(side=16, count=2000, **settings):
    """lambda of `count` batches, and whether each got CutMix, as `mix` draws them."""
    # Two examples: pixels 0 and 1, and their own classes. Mixup gives one grey, CutMix black and white.
    images = jnp.stack([jnp.zeros((side, side, 1)), jnp.ones((side, side, 1))])

    def one(key):
        mixed, targets = mixing.mix(key, images, jnp.eye(2), **settings)
        return targets[0, 0], mixed[0].mean(), ((mixed == 0) | (mixed == 1)).all() & (targets[0, 0] < 1)

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), count))
    lam, partner_share, cut = map(np.asarray, draws)
    np.testing.assert_allclose(lam, 1 - partner_share, atol=2e-6)  # pixels and targets agree
    return lam, cut


def test_normalize_matches_float64_and_its_dtype():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255.0 - np.array(mean)) / np.array(std)
    chex.assert_trees_all_close(mixing.normalize(images, mean, std), expected.astype(np.float32), atol=1e-6)
    half = mixing.normalize(images, mean, std, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    chex.assert_trees_all_close(half.astype(jnp.float32), expected.astype(np.float32), rtol=2**-8, atol=1e-6)


def test_normalize_refuses_what_it_would_get_wrong():
    grey = jnp.zeros((1, 2, 2, 1), jnp.uint8)
    with pytest.raises(ConfigError, match=r"data\.mean.*1 channels"):
        mixing.normalize(grey, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match=r"data\.std"):
        mixing.normalize(grey, (0.5,), (0.0,))
    with pytest.raises(TypeError, match="uint8"):
        mixing.normalize(jnp.zeros((1, 2, 2, 1)), (0.5,), (0.5,))


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mix_equals_timm_given_the_same_draws(settings, seed, monkeypatch):
    torch = pytest.importorskip("torch")
    timm_mixup = pytest.importorskip("timm.data.mixup")
    images, _ = batch_of()
    ours, targets = mix(jax.random.key(seed), images, one_hot_targets(jnp.arange(6), 10, 0.1), **settings)

    _, plain = mix(jax.random.key(seed), images, one_hot_targets(jnp.arange(6), 10), **settings)
    lam = float(plain[0, 0])  # the draw, read from the targets, and the box, read from the pixels
    peer = timm_mixup.Mixup(settings["mixup"], settings["cutmix"], label_smoothing=0.1, num_classes=10)
    monkeypatch.setattr(peer, "_params_per_batch", lambda: (lam, settings is CUTMIX))
    changed = np.argwhere(np.asarray(ours != images).any((0, 3)))
    (top, left), (bottom, right) = changed.min(0), changed.max(0) + 1
    box = ((top, bottom, left, right), 1 - (bottom - top) * (right - left) / (9 * 13))
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *args, **kwargs: box)
    expected, expected_targets = peer(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2), torch.arange(6))
    chex.assert_trees_all_close(ours, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    chex.assert_trees_all_close(targets, expected_targets.numpy(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1, width=32), st.floats(0, 0.999), st.floats(0, 0.999))
def test_cutmix_box_against_the_paper(height, width, lam, y, x):
    (top, bottom), (left, right) = mixing.cutmix_box(jnp.float32(lam), jnp.array([y, x]), height, width)
    for low, high, size, position in ((top, bottom, height, y), (left, right, width, x)):
        cut = size * np.sqrt(1 - np.float32(lam))
        middle = int(np.float32(position) * np.float32(size))
        allowed = set()
        for side in {int(cut - 1e-4), int(cut + 1e-4)}:  # float32 may fall on either side of a whole number
            allowed.add((max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)))
        assert (int(low), int(high)) in allowed


def test_cutmix_boxes_follow_timms_distribution(monkeypatch):
    timm_mixup = pytest.importorskip("timm.data.mixup")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: rng.integers(low, high, size))
    lam = 0.7
    theirs = np.array(timm_mixup.rand_bbox((3, 20, 31), lam, count=4000))  # yl, yh, xl, xh
    centres = jax.random.uniform(jax.random.key(0), (4000, 2))
    ours = jax.vmap(lambda centre: mixing.cutmix_box(jnp.float32(lam), centre, 20, 31))(centres)
    for mine, yours in zip(jax.tree.leaves(ours), theirs, strict=True):
        assert stats.ks_2samp(np.asarray(mine), yours).pvalue > 1e-3


def test_mixup_lambda_follows_beta():
    lam, cut = lambdas_of(**MIXUP)
    assert stats.kstest(lam, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert abs(lam.mean() - 0.5) < 4 * stats.beta(0.8, 0.8).std() / np.sqrt(len(lam))
    assert not cut.any()


def test_cutmix_lambda_follows_timm():
    timm_mixup = pytest.importorskip("timm.data.mixup")
    np.random.seed(0)  # timm draws from numpy's global state
    peer = timm_mixup.Mixup(0.0, 1.0)
    theirs = [timm_mixup.cutmix_bbox_and_lam((3, 16, 16), peer._params_per_batch()[0])[1] for _ in range(2000)]
    lam, _ = lambdas_of(**CUTMIX)
    assert stats.ks_2samp(lam, np.array(theirs)).pvalue > 1e-3


def test_cutmix_lambda_follows_a_restatement():
    rng = np.random.default_rng(1)
    side = (16 * np.sqrt(1 - rng.beta(1.0, 1.0, 2000))).astype(int)
    area = 1.0
    for middle in rng.integers(0, 16, (2, 2000)):
        area = area * (np.clip(middle + (side + 1) // 2, 0, 16) - np.clip(middle - side // 2, 0, 16))
    assert stats.ks_2samp(lambdas_of(**CUTMIX)[0], 1 - area / 16**2).pvalue > 1e-3


def test_shares_of_mixed_and_of_cut_batches():
    lam, cut = lambdas_of(**BOTH, mix_prob=0.6, switch_prob=0.3)
    assert abs((lam == 1).mean() - 0.4) < 0.04
    assert abs(cut.mean() - 0.6 * 0.3) < 0.04  # a box may round to nothing now and then


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
def test_invalid_examples_neither_give_nor_take(settings):
    images, targets = batch_of()
    mask = jnp.array([True, True, True, True, True, False])
    garbage = images.at[5].set(jnp.nan)
    bad_targets = targets.at[5].set(jnp.nan)
    mixed, mixed_targets = mix(jax.random.key(1), garbage, bad_targets, **settings, mask=mask)
    chex.assert_trees_all_equal((mixed[0], mixed_targets[0]), (images[0], targets[0]))  # the partner of 5
    chex.assert_tree_all_finite((mixed[:5], mixed_targets[:5]))
    full, full_targets = mix(jax.random.key(1), images, targets, **settings, mask=jnp.ones(6, bool))
    chex.assert_trees_all_equal((mixed[1:5], mixed_targets[1:5]), (full[1:5], full_targets[1:5]))
    assert (full[0] != images[0]).any() and (full_targets[0] != targets[0]).any()


def test_mix_keeps_dtypes_sums_and_the_middle_of_an_odd_batch():
    images, targets = batch_of(count=5)
    images = images.astype(jnp.bfloat16)
    mixed, mixed_targets = mix(jax.random.key(2), images, targets, **MIXUP)
    assert (mixed.dtype, mixed_targets.dtype) == (jnp.bfloat16, jnp.float32)
    chex.assert_trees_all_close(mixed_targets.sum(-1), np.ones(5), atol=1e-6)
    chex.assert_trees_all_close(mixed_targets[2], targets[2], atol=1e-6)
    lam, exact = float(mixed_targets[0, 0]), np.asarray(images, np.float64)
    np.testing.assert_allclose(
        np.asarray(mixed, np.float64), lam * exact + (1 - lam) * exact[::-1], rtol=2**-8, atol=1e-6
    )


def test_off_means_untouched():
    images, targets = batch_of()
    chex.assert_trees_all_equal(mix(jax.random.key(0), images, targets, mixup=0.0, cutmix=0.0), (images, targets))
    chex.assert_trees_all_equal(random_erasing(jax.random.key(0), images, 0.0), images)


def test_settings_out_of_range_name_their_key():
    images, targets = batch_of()
    with pytest.raises(ConfigError, match=r"data\.augment\.mixup.*-1"):
        mix(jax.random.key(0), images, targets, mixup=-1.0, cutmix=0.0)
    with pytest.raises(ConfigError, match=r"data\.augment\.switch_prob.*1\.5"):
        mix(jax.random.key(0), images, targets, mixup=1.0, cutmix=1.0, switch_prob=1.5)
    with pytest.raises(ConfigError, match=r"data\.augment\.erase_prob.*2"):
        random_erasing(jax.random.key(0), images, 2)


def erased_boxes(images):
    """The bounding box of what is not 0 in each image, as (height, width, top, left), and whether it is filled."""
    boxes = []
    for erased in np.asarray(images != 0).any(-1):
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        if len(rows):
            box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()
            boxes.append((*box.shape, rows[0], columns[0]))
    return np.array(boxes)


@pytest.mark.parametrize("shape", [(32, 32), (12, 48)])  # in the second, tall boxes often need further attempts
def test_erasing_boxes_follow_timm(shape):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("timm.data.random_erasing").RandomErasing(1.0, mode="pixel", device="cpu")
    random.seed(0)  # timm draws from Python's global state
    theirs = erased_boxes(peer(torch.zeros(2000, 1, *shape)).permute(0, 2, 3, 1).numpy())
    ours = erased_boxes(random_erasing(jax.random.key(0), jnp.zeros((2000, *shape, 1)), 1.0))
    for mine, yours in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(mine, yours).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 0] * ours[:, 1], theirs[:, 0] * theirs[:, 1]).pvalue > 1e-3


def test_erasing_boxes_against_a_loop():
    """The published procedure, written as its loop, gives boxes of the same distribution."""
    rng, height, width, boxes = np.random.default_rng(0), 12, 48, []
    for _ in range(3000):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if h < height and w < width:
                boxes.append((h, w, rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)))
                break
    (top, bottom), (left, right), found = erasing_boxes(jax.random.key(1), 3000, height, width)
    assert found.all()
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= height).all() and (right <= width).all()
    for mine, loop in zip((bottom - top, right - left, top, left), np.array(boxes).T, strict=True):
        assert stats.ks_2samp(np.asarray(mine), loop).pvalue > 1e-3


def test_no_box_fits_a_picture_of_one_row():
    images = jnp.zeros((50, 1, 64, 3), jnp.bfloat16)
    chex.assert_trees_all_equal(random_erasing(jax.random.key(0), images, 1.0), images)


def test_erasing_share_and_noise():
    erased = np.asarray(random_erasing(jax.random.key(4), jnp.zeros((800, 16, 16, 2)), 0.25))
    assert abs((erased != 0).any((1, 2, 3)).mean() - 0.25) < 0.05
    noise = erased[erased != 0]
    assert stats.kstest(noise, stats.norm.cdf).pvalue > 1e-3
    assert len(np.unique(noise)) > 0.99 * len(noise)  # every pixel, channel and image has its own


def test_result_does_not_depend_on_the_layout_of_the_batch():
    def augment(key, images, labels, mask):
        mix_key, erase_key = jax.random.split(key)
        images = mixing.random_erasing(erase_key, mixing.normalize(images, (0.5,) * 3, (0.2,) * 3), 0.5)
        return mixing.mix(mix_key, images, one_hot_targets(labels, 10, 0.1), **BOTH, mask=mask)

    rng = np.random.default_rng(0)
    batch = (rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8), np.arange(16) % 10, np.arange(16) != 3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    whole = jax.jit(augment)
    sharded = jax.jit(augment, in_shardings=(everywhere, split, split, split), out_shardings=split)
    sharded = sharded.lower(jax.random.key(0), *batch).compile()
    for key in jax.random.split(jax.random.key(0), 4):
        on_eight = sharded(jax.device_put(key, everywhere), *jax.device_put(batch, split))
        assert len(on_eight[0].sharding.device_set) == 8
        chex.assert_trees_all_close(on_eight, whole(key, *batch), rtol=1e-6, atol=1e-6)
    program = sharded.as_text()
    assert "collective-permute" in program and "all-gather" not in program and "all-to-all" not in program
