"""What preprocessor_config.json says; what becomes of pictures by it, is in test_preprocessing.py."""

import pytest

from vision_jax.errors import ConfigError
from vision_jax.weights.families.description import HALF, IMAGENET, preprocessing
from vision_jax.weights.families.processors import read_processor, write_processor

SQUASHED = preprocessing(HALF, "bilinear", "squash")
CROPPED = preprocessing(IMAGENET, "bicubic", "crop", 0.875)


@pytest.mark.parametrize(
    ("config", "resize", "crop"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}, "squash", 1.0),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3}, "squash", 1.0),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 35}, "crop", 0.875),
    ],
)
def test_what_files_leave_out_is_their_processor_s_default(config, resize, crop):
    for defaults in (SQUASHED, CROPPED):
        read = read_processor(config, defaults)
        assert (read["eval_resize"], read["eval_crop"]) == (resize, crop)
        assert read["mean"] == ((0.48145466, 0.4578275, 0.40821073) if resize == "crop" else (0.5, 0.5, 0.5))
    assert read_processor({}, CROPPED) == CROPPED


@pytest.mark.parametrize(("settings", "size"), [(SQUASHED, (32, 48)), (CROPPED, (28, 28))])
def test_what_is_written_is_read_back(settings, size):
    assert read_processor(write_processor(settings, size), {}) == settings


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
