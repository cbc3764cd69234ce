"""What preprocessor_config.json says, against transformers' own processors on the same picture."""

import json

import numpy as np
import pytest
from PIL import Image

from vision_jax.data.images import EvalTransform
from vision_jax.errors import ConfigError
from vision_jax.weights.families.description import HALF, IMAGENET, preprocessing
from vision_jax.weights.families.processors import read_processor, write_processor

SQUASHED = preprocessing(HALF, "bilinear", "squash")
CROPPED = preprocessing(IMAGENET, "bicubic", "crop", 0.875)


def picture(height=60, width=90):
    """A smooth picture with edges in it; its crops lie at whole pixels, since transformers rounds down and torchvision to even."""
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin(x / 9) * np.cos(y / 7), 255 * (x > y), (3 * x + 2 * y) % 256]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def ours_of(settings, size):
    transform = EvalTransform(
        size, settings["interpolation"], settings["eval_resize"] == "squash", settings["eval_crop"]
    )
    return (transform(picture()) / 255 - settings["mean"]) / settings["std"]


def theirs_of(folder, config):
    transformers = pytest.importorskip("transformers")
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(picture(), return_tensors="np").pixel_values[0].transpose(1, 2, 0)


def differ_by_a_grey_level(ours, theirs, std):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1.01 / 255 / min(std)
    assert np.ptp(theirs) > 1


@pytest.mark.parametrize(
    ("config", "size", "resize"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}, (32, 48), "squash"),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3}, (32, 32), "squash"),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 36}, "crop_size": 28},
            (28, 28),
            "crop",
        ),
    ],
)
def test_pictures_are_those_of_transformers(tmp_path, config, size, resize):
    config |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    defaults = CROPPED if resize == "crop" else SQUASHED
    settings = read_processor(config, defaults)
    assert settings["eval_resize"] == resize
    differ_by_a_grey_level(ours_of(settings, size), theirs_of(tmp_path, config), settings["std"])


@pytest.mark.parametrize(("settings", "size"), [(SQUASHED, (32, 48)), (CROPPED, (28, 28))])
def test_transformers_prepares_as_we_do_with_what_we_write(tmp_path, settings, size):
    config = write_processor(settings, size)
    assert read_processor(config, {}) == settings
    differ_by_a_grey_level(ours_of(settings, size), theirs_of(tmp_path, config), settings["std"])


def test_every_short_side_comes_back():
    for edge in range(200, 600):
        config = {"size": {"shortest_edge": edge}, "crop_size": {"height": 197, "width": 197}, "do_center_crop": True}
        assert write_processor(read_processor(config, CROPPED), (197, 197))["size"] == {"shortest_edge": edge}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"resample": 1}, "resample=1"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"do_normalize": False}, "do_normalize"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False}, "do_center_crop=False"),
    ],
)
def test_other_ways_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        read_processor(config, SQUASHED)
    with pytest.raises(ConfigError, match="squares alone"):
        write_processor(CROPPED, (224, 112))
