"""What a run is told before its first step."""

import numpy as np
import pytest
from PIL import Image
from tiny_run import config_of

from vision_jax.training.notes import notes
from vision_jax.training.start import check


@pytest.fixture
def said(data, tmp_path):
    """keys of the config -> lines"""
    return lambda **keys: notes(check(config_of(data, **keys), tmp_path / "new", ()))


def test_of_a_run_that_makes_sense_there_is_nothing_to_say(said):
    assert said() == []


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"batch_size": 24}, "warning: batch_size=24 is more than the 16 training examples"),
        ({"model__num_classes": 9}, "warning: model.num_classes=9 is more than the 2 classes of the data; left unset"),
        ({"data__image_size": 32}, "are small, 16 pixels high or wide, and are enlarged to data.image_size=32"),
        (
            {"schedule__warmup": "9 steps"},
            "schedule.warmup is 4 steps instead of 9 (9 steps): the schedule would be longer",
        ),
        ({"schedule__update_every": "5 epochs"}, "schedule.update_every is 1 steps instead of 10 (5 epochs)"),
    ],
)
def test_what_makes_little_sense_is_one_line(keys, line, said):
    (found,) = said(**keys)
    assert line in found


def test_broken_pictures_are_told_elsewhere(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / "a" / "0.png")
        (tmp_path / split / "a" / "1.png").write_bytes(b"no picture")
    assert "8 pixels high or wide" in notes(check(config_of(tmp_path), tmp_path / "new", ()))[-1]
