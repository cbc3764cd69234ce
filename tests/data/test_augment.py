import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vision_jax.config import base_config
from vision_jax.data import augment
from vision_jax.errors import ConfigError


def _transform(**keys):
    c = base_config()
    c.data.image_size = keys.pop("image_size", 32)
    c.data.augment = {"crop_area": None, "flip": False, **keys}
    return augment.train_transform(c.data)


def test_without_augmentation_the_whole_picture_is_resized(picture):
    out = _transform(image_size=(20, 30))(picture, np.random.default_rng(0))
    np.testing.assert_array_equal(out, np.asarray(picture.resize((30, 20), Image.Resampling.BICUBIC)))


def test_flip_mirrors_half_of_the_pictures(picture):
    plain = _transform()(picture, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    outs = [_transform(flip=True)(picture, rng) for _ in range(200)]
    flipped = [np.array_equal(out, plain[:, ::-1]) for out in outs]
    assert all(f or np.array_equal(out, plain) for f, out in zip(flipped, outs, strict=True))
    assert 70 < sum(flipped) < 130


def test_the_generator_decides_everything(picture):
    transform = _transform(
        crop_area=(0.1, 1.0), flip=True, policy="3-augment", color_jitter=0.3, rotate=20.0, scale=0.2, shift=0.1
    )
    a, b, c = (transform(picture, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (32, 32, 3) and a.dtype == np.uint8 and not np.array_equal(a, c)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_affine_moves_the_picture_as_a_map_of_coordinates_says(interpolation):
    """A blob at (y, x) goes where the forward map takes it."""
    size, degrees, scale, shift = 65, 25.0, 1.2, (6.0, -4.0)
    y, x = np.mgrid[:size, :size]
    for center in ((32, 32), (22, 40), (40, 25)):
        blob = 255 * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / 18)
        image = Image.fromarray(np.repeat(blob[..., None], 3, -1).astype(np.uint8))
        out = np.asarray(augment.affine(image, degrees, scale, shift, interpolation))[..., 0].astype(float)
        found = np.array([(out * y).sum(), (out * x).sum()]) / out.sum()
        dy, dx = center[0] - 32, center[1] - 32
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        expected = 32 + scale * np.array([s * dx + c * dy, c * dx - s * dy]) + shift  # clockwise: y is down
        np.testing.assert_allclose(found, expected, atol=0.3)


def test_affine_stays_within_its_limits(picture):
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    rng = np.random.default_rng(0)
    shifted = [_transform(image_size=64, shift=0.25)(white, rng) for _ in range(60)]
    rows = np.array([(out.max((1, 2)) > 0).sum() for out in shifted])
    columns = np.array([(out.max((0, 2)) > 0).sum() for out in shifted])
    assert rows.min() >= 47 and columns.min() >= 47 and rows.min() < 54 and columns.min() < 54


def test_jitter_draws_factors_around_one():
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    rng = np.random.default_rng(0)
    means = np.array([np.asarray(augment.jitter(image, 0.4, rng)).mean() for _ in range(400)])
    assert 59 <= means.min() < 65 and 135 < means.max() <= 141  # of a flat grey, only brightness changes anything
    assert means.mean() == pytest.approx(100, abs=3)


def test_jitter_applies_pillows_enhancements_in_random_order(picture):
    class Fixed:
        def __init__(self, order):
            self.order, self.factors = order, iter((0.7, 1.3, 0.9))

        def permutation(self, count):
            return self.order[:count]

        def uniform(self, low, high):
            assert (low, high) == (0.5, 1.5)
            return next(self.factors)

    for order in ((0, 1, 2), (2, 0, 1)):
        expected = picture
        for index, factor in zip(order, (0.7, 1.3, 0.9), strict=True):
            expected = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[index](expected).enhance(
                factor
            )
        np.testing.assert_array_equal(np.asarray(augment.jitter(picture, 0.5, Fixed(order))), np.asarray(expected))


@pytest.mark.parametrize(
    "key, value",
    [
        ("crop_area", (0.5, 0.1)),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.5)),
        ("crop_area", (0.5,)),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("rotate", -1.0),
        ("scale", 1.0),
        ("shift", -0.1),
        ("color_jitter", -0.1),
        ("policy", "randaugment"),
    ],
)
def test_bad_values_are_named(key, value):
    with pytest.raises(ConfigError, match=rf"data\.augment\.{key}"):
        _transform(**{key: value})


def test_jitter_beside_randaugment_is_refused():
    for policy in ("rand-m9", "randaug(2,15)"):
        with pytest.raises(ConfigError, match=r"data\.augment\.color_jitter"):
            _transform(policy=policy, color_jitter=0.4)
    assert _transform(policy="3-augment", color_jitter=0.3).color_jitter == 0.3
