"""Pixel parity with timm and torchvision, for environments that have them."""

import os
import random
import zipfile
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from vision_jax.data import augment, images, policies

timm_augment = pytest.importorskip("timm.data.auto_augment")
transforms = pytest.importorskip("torchvision.transforms")
functional = pytest.importorskip("torchvision.transforms.functional")
create_transform = pytest.importorskip("timm.data").create_transform

INTERPOLATIONS = ("bicubic", "bilinear")
FILL = (124, 116, 104)
TIMM_NAMES = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}
GROWING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")


@pytest.mark.parametrize("name", policies.TIMM)
@pytest.mark.parametrize("increasing", [False, True])
def test_every_operation_is_timms(name, increasing, picture):
    table = policies.TIMM_INCREASING if increasing else policies.TIMM
    theirs = TIMM_NAMES.get(name, name) + ("Increasing" if increasing and name in GROWING else "")
    assert theirs in (timm_augment._RAND_INCREASING_TRANSFORMS if increasing else timm_augment._RAND_TRANSFORMS)
    for level in (0, 1, 4.3, 7, 9.2, 10, 15, 20):
        for sign in (-1, 1):
            for resample in images.RESAMPLING.values():
                op = table[name]
                ours = op.apply(picture, op.argument(level, sign), policies.Geometry(resample, FILL))
                hparams = {"img_mean": FILL, "interpolation": resample, "magnitude_max": 20, "translate_const": 100}
                with mock.patch.object(random, "random", lambda sign=sign: 0.9 if sign < 0 else 0.1):
                    try:
                        expected = timm_augment.AugmentOp(theirs, prob=1.0, magnitude=level, hparams=hparams)(picture)
                    except ValueError:  # Pillow 13 no longer keeps 0 bits, which was black
                        assert name == "Posterize" and op.argument(level, sign) < 1
                        expected = Image.new("RGB", picture.size)
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.8", "rand-m12-mmax15-mstd101-inc1", "rand"])
def test_the_grammar_is_timms(text):
    ours = policies.parse_policy(text, (0.485, 0.456, 0.406), "bicubic")
    theirs = timm_augment.rand_augment_transform(text, {"img_mean": FILL})
    op = theirs.ops[0]
    table = policies.TIMM_INCREASING if ours.increasing else policies.TIMM
    assert (len(table), ours.layers, ours.probability) == (len(theirs.ops), theirs.num_layers, op.prob)
    assert (ours.magnitude, ours.deviation, ours.largest) == (op.magnitude, op.magnitude_std, op.magnitude_max or 10)
    assert ours.increasing == any("Increasing" in op.name for op in theirs.ops) and ours.geometry.fill == FILL


def _pictures(picture):
    yield picture
    yield picture.transpose(Image.Transpose.ROTATE_90)
    yield picture.resize((300, 211))
    yield picture.resize((64, 64))
    yield picture.resize((20, 31))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "size, crop", [((48, 48), 0.875), ((64, 64), 1.0), ((47, 47), 0.9), ((40, 64), 0.9), ((64, 40), 1.0)]
)
def test_evaluation_is_timms(size, crop, interpolation, picture):
    theirs = create_transform(size, interpolation=interpolation, crop_pct=crop, use_prefetcher=True)
    ours = images.EvalTransform(size, interpolation, crop=crop)
    for image in _pictures(picture):
        np.testing.assert_array_equal(ours(image), np.asarray(theirs(image)).transpose(1, 2, 0))


@pytest.mark.parametrize("size", [(48, 48), (40, 64)])
def test_squashed_evaluation_is_timms(size, picture):
    theirs = create_transform(size, interpolation="bicubic", crop_pct=1.0, crop_mode="squash", use_prefetcher=True)
    for image in _pictures(picture):
        np.testing.assert_array_equal(
            images.EvalTransform(size, squash=True)(image), np.asarray(theirs(image)).transpose(1, 2, 0)
        )


def test_real_pictures_evaluate_as_timms():
    folder = os.environ.get("VISION_JAX_TEST_DATA", "")
    if not folder:
        pytest.skip("VISION_JAX_TEST_DATA names no folder with imagenet_sample_500.zip")
    theirs = create_transform(224, interpolation="bicubic", crop_pct=0.875, use_prefetcher=True)
    with zipfile.ZipFile(os.path.join(folder, "imagenet_sample_500.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".JPEG")][::25]
        for name in names:
            with archive.open(name) as stream:
                expected = np.asarray(theirs(Image.open(stream).convert("RGB"))).transpose(1, 2, 0)
            np.testing.assert_array_equal(images.EvalTransform((224, 224))(images.decode(archive.read(name))), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_cropping_and_resizing_is_torchvisions(interpolation, picture):
    mode = transforms.InterpolationMode(interpolation)
    for box in ((0, 0, 61, 83), (5, 7, 30, 41), (20, 3, 9, 70)):
        top, left, h, w = box
        ours = images.resize(picture.crop((left, top, left + w, top + h)), (32, 40), interpolation)
        np.testing.assert_array_equal(
            np.asarray(ours), np.asarray(functional.resized_crop(picture, *box, (32, 40), mode))
        )


@pytest.mark.parametrize("height, width, area", [(61, 83, (0.08, 1.0)), (40, 200, (0.5, 1.0)), (50, 50, (0.9, 1.0))])
def test_crop_boxes_are_distributed_as_torchvisions(height, width, area):
    """Two samples of 4,000 boxes; also where boxes are often refused or fall back to the centre."""
    import torch

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image, ratio = Image.new("RGB", (width, height)), (3 / 4, 4 / 3)
    ours = np.array([images.random_crop_box(height, width, area, ratio, rng) for _ in range(4000)])
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, area, ratio) for _ in range(4000)])
    for column in range(4):
        grid = np.arange(max(height, width) + 1)
        cdfs = [np.searchsorted(np.sort(boxes[:, column]), grid, side="right") / 4000 for boxes in (ours, theirs)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * np.sqrt(2 / 4000)  # Kolmogorov-Smirnov at 0.1 %


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_affine_is_torchvisions(interpolation, picture):
    mode = transforms.InterpolationMode(interpolation)
    for degrees, scale, shift in ((0, 1, (3, 5)), (30, 1, (0, 0)), (-12.5, 0.8, (0, 0)), (77, 1.3, (-4, 6))):
        ours = augment.affine(picture, degrees, scale, shift, interpolation)
        theirs = functional.affine(picture, degrees, [shift[1], shift[0]], scale, [0.0], mode)
        difference = np.asarray(ours).astype(int) - np.asarray(theirs)
        assert (
            np.abs(difference) > 1
        ).mean() < 2e-3  # matrices differ in the last bit, which moves pixels at the border


def test_jitter_is_torchvisions(picture):
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)

    class Recorded:
        def __init__(self):
            self.rng, self.order, self.factors = np.random.default_rng(0), None, []

        def permutation(self, count):
            self.order = self.rng.permutation(count)
            return self.order

        def uniform(self, low, high):
            self.factors.append(self.rng.uniform(low, high))
            return self.factors[-1]

    for _ in range(10):
        rng = Recorded()
        ours = augment.jitter(picture, 0.4, rng)
        expected = picture
        for index, factor in zip(rng.order, rng.factors, strict=True):
            expected = adjust[index](expected, factor)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
