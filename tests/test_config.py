import json
import pathlib
import subprocess
import sys

import pytest

from vision_jax import config as schema
from vision_jax.command_line import load_config, parse_overrides
from vision_jax.config import base_config, derive, describe, from_dict, steps_of, to_dict, to_json
from vision_jax.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def test_sections_merge_and_keep_other_defaults():
    c = base_config()
    c.optimizer = dict(name="sgd", momentum=0.5)
    assert (c.optimizer.name, c.optimizer.momentum, c.optimizer.b1) == ("sgd", 0.5, 0.9)


def test_mappings_among_a_model_s_fields_merge_too():
    c = base_config()
    c.model = dict(image=dict(width=32, depth=2))
    c.model = dict(image=dict(depth=3))
    c.model.image.num_heads = 4
    assert to_dict(c)["model"]["image"] == dict(width=32, depth=3, num_heads=4)
    assert to_dict(from_dict(json.loads(to_json(c)))) == to_dict(c)
    assert derive(c, 100)["train_examples"] == 100


def test_two_configs_share_nothing():
    a, b = base_config(), base_config()
    a.data.augment.mixup = 0.5
    a.model = dict(depth=3)
    assert b.data.augment.mixup == 0.0 and "depth" not in b.model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: setattr(c, "batchsize", 3), ["batchsize", "batch_size"]),
        (lambda c: setattr(c.optimizer, "weight_deacy", 3), ["optimizer.weight_deacy", "weight_decay"]),
        (lambda c: setattr(c, "batch_size", "64"), ["batch_size", "int", "'64'"]),
        (lambda c: setattr(c, "batch_size", True), ["batch_size", "int", "True"]),
        (lambda c: setattr(c.data, "augment", 3), ["data.augment", "section"]),
        (lambda c: setattr(c, "optimizer", dict(name="adam")), ["optimizer.name", "adamw"]),
        (lambda c: setattr(c, "duration", "3 weeks"), ["duration", "3 weeks", "epochs"]),
        (lambda c: setattr(c.schedule, "base_lr", float("nan")), ["schedule.base_lr", "finite"]),
        (lambda c: c.data.agument, ["data.agument", "augment"]),
    ],
)
def test_wrong_keys_and_values_are_named(change, words):
    with pytest.raises(ConfigError) as error:
        change(base_config())
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_every_key_has_a_meaning_and_a_default_of_its_type():
    for key, default, meaning in describe():
        assert len(meaning) > 5, key
        entry = schema._entry(key)
        assert schema.check(key, entry, default) == default, key


def test_json_round_trip():
    c = load_config(str(CONFIGS / "vit_digits.py"))
    again = from_dict(json.loads(to_json(c)))
    assert to_dict(again) == to_dict(c)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_config_files_load_without_jax(path):
    code = f"import sys; from vision_jax.command_line import load_config; load_config({str(path)!r}); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("10 steps", 10),
        ("1 step", 1),
        ("2 epochs", 20),
        ("0.5 epochs", 5),
        ("640 examples", 10),
        ("0 steps", 0),
        ("1 examples", 1),
    ],
)
def test_durations(duration, steps):
    assert steps_of(duration, batch_size=64, num_examples=640) == steps


def test_derived_durations_cover_every_duration_of_the_schema():
    c = base_config()
    c.batch_size = 10
    c.evals.classification.every = ""
    derived = derive(c, 100)
    assert derived["steps"]["duration"] == 900
    assert derived["steps"]["evals.classification.every"] == 0
    assert {"checkpoint.every", "log.every", "schedule.warmup"} <= derived["steps"].keys()


def test_overrides_are_typed_by_the_schema():
    c = base_config()
    argv = [
        "--config.batch_size=32",
        "--config.duration",
        "3 epochs",
        "--config.model.drop_path_rate=0.1",
        "--config.data.augment.flip=false",
        "--config.data.train=folder:1",
    ]
    assert parse_overrides(argv, c) == [
        ("batch_size", 32),
        ("duration", "3 epochs"),
        ("model.drop_path_rate", 0.1),
        ("data.augment.flip", False),
        ("data.train", "folder:1"),
    ]
