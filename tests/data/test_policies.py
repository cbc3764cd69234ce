import math
import pickle

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from vision_jax.data import policies
from vision_jax.errors import ConfigError

GREY = policies.Geometry(Image.Resampling.NEAREST, (128, 128, 128))
MEAN = (0.485, 0.456, 0.406)


def _parse(text):
    return policies.parse_policy(text, MEAN, "bicubic")


def _big_vision(picture, name, level, sign=1):
    op = policies.BIG_VISION[name]
    return np.asarray(op.apply(picture, op.argument(level, sign), GREY)).astype(int)


def test_timm_grammar():
    geometry = policies.Geometry(Image.Resampling.BICUBIC, (124, 116, 104))
    assert _parse("rand-m9-mstd0.5-inc1") == policies.TimmRandAugment(geometry, True, 2, 9, 0.5, 10, 0.5)
    assert _parse("rand") == policies.TimmRandAugment(geometry, False, 2, 10, 0, 10, 0.5)
    assert _parse("rand-n3-p0.75-m15-mmax20-inc0-mstd101") == policies.TimmRandAugment(
        geometry, False, 3, 15, math.inf, 20, 0.75
    )
    assert policies.parse_policy("", MEAN, "bicubic") is None
    assert _parse("randaug(2,15)") == policies.BigVisionRandAugment(2, 15) == _parse("randaug(2, 15)")


@pytest.mark.parametrize(
    "text",
    [
        "rand-m9-w0",
        "rand-m9-tweights",
        "rand-m9-m8",
        "rand-m",
        "rand-n2.5",
        "rand-x1",
        "rand_m9",
        "augmix-m3",
        "randaug(2)",
        "3augment",
        "rand-inc0.5",
    ],
)
def test_unknown_policies_name_the_grammar(text):
    with pytest.raises(ConfigError) as error:
        _parse(text)
    assert (
        "rand-m9-mstd0.5-inc1" in str(error.value)
        and "randaug(N,M)" in str(error.value)
        and repr(text) in str(error.value)
    )


def test_timm_draws_levels_and_operations_as_said(picture, monkeypatch):
    seen = []

    def record(name):
        return policies.Op(
            lambda image, argument, _: seen.append((name, *argument)) or image, lambda level, sign: (level, sign)
        )

    monkeypatch.setattr(policies, "TIMM_INCREASING", {name: record(name) for name in policies.TIMM_INCREASING})
    policy, rng = _parse("rand-m9-mstd0.5-inc1"), np.random.default_rng(0)
    for _ in range(3000):
        policy(picture, rng)
    names, levels, signs = zip(*seen, strict=True)
    counts = np.array([names.count(name) for name in policies.TIMM_INCREASING])
    assert len(counts) == 15 and len(seen) == pytest.approx(3000, rel=0.05)  # two of probability 1/2
    assert counts.min() > 140 and counts.max() < 260
    assert np.mean(levels) == pytest.approx(9 - 0.004, abs=0.03) and max(levels) == 10 and min(levels) > 6.5
    assert np.mean(signs) == pytest.approx(0, abs=0.06) and set(signs) == {-1, 1}


def test_uniform_and_capped_levels():
    rng = np.random.default_rng(0)
    uniform = [_parse("rand-m9-mstd101")._level(rng) for _ in range(2000)]
    assert 0 <= min(uniform) < 0.1 and 8.9 < max(uniform) <= 9 and np.mean(uniform) == pytest.approx(4.5, abs=0.2)
    assert _parse("rand-m15")._level(rng) == 10 and _parse("rand-m15-mmax20")._level(rng) == 15


def test_big_vision_levels(picture):
    """The values that distort_image_with_randaugment's arithmetic gives at magnitudes 10, 15 and 20."""
    table = policies.BIG_VISION
    for level, threshold, bits, degrees, pixels, factor in (
        (10, 0, 4, 30, 100, 1.9),
        (15, 128, 6, 45, 150, 2.8),
        (20, 0, 8, 60, 200, 3.7),
    ):
        assert table["Solarize"].argument(level, 1) == threshold  # a uint8: 256, 384 and 512 wrap around
        assert table["Posterize"].argument(level, 1) == bits
        assert table["Rotate"].argument(level, -1) == pytest.approx(-degrees)
        assert table["TranslateX"].argument(level, -1) == pytest.approx(-pixels)
        assert table["Brightness"].argument(level, 1) == pytest.approx(factor)
    assert table["SolarizeAdd"].argument(15, 1) == 165 and table["ShearY"].argument(15, 1) == pytest.approx(0.45)
    assert len(table) == 15  # and cutout


def test_big_vision_operations_against_numpy(picture):
    x = np.asarray(picture).astype(int)
    np.testing.assert_array_equal(_big_vision(picture, "Solarize", 15), np.where(x < 128, x, 255 - x))
    np.testing.assert_array_equal(_big_vision(picture, "Solarize", 10), 255 - x)
    np.testing.assert_array_equal(_big_vision(picture, "SolarizeAdd", 5), np.where(x < 128, np.minimum(x + 55, 255), x))
    np.testing.assert_array_equal(_big_vision(picture, "Posterize", 15), x >> 2 << 2)
    np.testing.assert_array_equal(_big_vision(picture, "Posterize", 20), x)
    grey = 61 * 83 // 256
    np.testing.assert_allclose(_big_vision(picture, "Contrast", 4), np.clip(grey + 0.82 * (x - grey), 0, 255), atol=1)
    np.testing.assert_allclose(_big_vision(picture, "Brightness", 15), np.minimum(x * 2.8, 255), atol=1)
    moved = _big_vision(picture, "TranslateX", 2, sign=-1)
    np.testing.assert_array_equal(moved[:, 20:], x[:, :-20])
    assert (moved[:, :20] == 128).all() and (_big_vision(picture, "TranslateY", 15) == 128).all()


def test_cutout_paints_one_square():
    black = Image.new("RGB", (40, 30))
    rng = np.random.default_rng(0)
    centres = []
    for _ in range(300):
        painted = np.asarray(policies.cutout(black, 5, (128, 128, 128), rng))[..., 0] == 128
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        assert painted.sum() == len(rows) * len(columns) and 5 <= len(rows) <= 10 and 5 <= len(columns) <= 10
        centres.append((rows[0], columns[0]))
    assert len(set(centres)) > 200


def test_big_vision_always_applies(picture):
    rng = np.random.default_rng(0)
    changed = [
        not np.array_equal(np.asarray(_parse("randaug(1,10)")(picture, rng)), np.asarray(picture)) for _ in range(100)
    ]
    assert sum(changed) > 95


def test_three_augment_is_one_of_three(picture):
    rng = np.random.default_rng(0)
    counts = np.zeros(3, int)
    for _ in range(150):
        out = np.asarray(policies.three_augment(picture, rng)).astype(int)
        grey = np.array_equal(out, np.asarray(ImageOps.grayscale(picture).convert("RGB")))
        solar = np.array_equal(out, np.asarray(ImageOps.solarize(picture)))
        counts[0 if grey else 1 if solar else 2] += 1
        if not grey and not solar:
            limits = [np.asarray(picture.filter(ImageFilter.GaussianBlur(r))).astype(int).std() for r in (2.0, 0.1)]
            assert limits[0] - 0.1 <= out.std() <= limits[1] + 0.1
    assert counts.min() > 30


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "randaug(2,15)", "3-augment"])
def test_policies_depend_on_the_generator_alone_and_pickle(text, picture):
    policy = _parse(text)
    copy = pickle.loads(pickle.dumps(policy))
    for seed in range(20):
        out = policy(picture, np.random.default_rng(seed))
        assert out.size == picture.size and out.mode == "RGB"
        assert out.tobytes() == copy(picture, np.random.default_rng(seed)).tobytes()
