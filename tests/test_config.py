import copy
import functools
import json
import math
import pathlib
import pickle
import subprocess
import sys

import pytest

from vision_jax import config as schema
from vision_jax.command_line import load_config, parse_overrides
from vision_jax.config import base_config, derive, from_dict, steps_of, to_dict, to_json, typed_leaves
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
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: from_dict(to_dict(c))]
)
def test_a_copy_is_equal_and_shares_nothing(copied):
    c = base_config()
    c.model = dict(image=dict(width=32))
    other = copied(c)
    assert other == c and other is not c and type(other) is type(c)
    other.data.augment.mixup, other.model.image.width = 0.5, 64
    assert other != c and c.data.augment.mixup == 0.0 and c.model.image.width == 32


@pytest.mark.parametrize("copied", [lambda c: c, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_what_is_explicit(copied):
    """Be it a default, and in a copy, too; and what a name or a default says is not."""
    c = base_config()
    c.data.image_size, c.model, c.evals.mine = 224, dict(image=dict(width=32)), dict(kind="knn")
    c = copied(c)
    assert c.data.explicit == dict(image_size=224, augment={}) and c.model.explicit == dict(image=dict(width=32))
    assert c.evals.explicit["mine"] == dict(kind="knn") and c.evals.mine.k == 20 and "seed" not in c.explicit


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


def test_a_section_is_a_mapping_whose_missing_keys_are_missing():
    c = base_config()
    assert not hasattr(c, "nope") and getattr(c, "nope", 3) == 3 and c.get("nope") is None and "nope" not in c
    assert hasattr(c, "seed") and "seed" in c and dict(c)["seed"] == 0 and next(iter(c.data.augment)) == "crop_area"
    assert c.data == to_dict(c)["data"] and len(c.mesh.across) == 3
    with pytest.raises(ConfigError, match=r"batchsize.*batch_size"):
        c["batchsize"]
    with pytest.raises(ConfigError, match="seed"):
        del c.seed
    c.model.depth = 3
    del c.model.depth
    assert "depth" not in c.model
    section = copy.deepcopy(c.model)
    section.patch_size = 4
    assert "patch_size" not in c.model and section.name == c.model.name


def test_a_config_does_what_a_config_dict_does():
    c = base_config()
    c.task, c.loss.gamma = "own:Focal", 2.0
    c.log.targets.wandb = dict(project="mine")
    assert (
        "project: mine" in str(c.log)
        and "gamma: 2.0" in c.to_yaml()
        and json.loads(c.to_json()) == json.loads(to_json(c))
    )
    assert c.to_dict() == to_dict(c) and sorted(c.optimizer.keys()) == sorted(to_dict(c)["optimizer"])


ODD = [
    math.nan,
    -math.inf,
    (1, (2.0, math.nan)),
    2**63,
    (-(2**64),),
    "a\0b",
    "\ud800",
    ("\udcff",),
    {1, 2},
    b"x",
    1j,
    ...,
]
ODD += [lambda: 1, {"a": {1}}, {1: 2}, functools.reduce(lambda inner, _: [inner], range(400), 1)]


@pytest.mark.parametrize("key", ["model.some", "batch_size", "data.augment.crop_ratio", "data.train", "duration"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
def test_values_that_json_does_not_give_back_are_refused(key, value):
    c = base_config()
    *parents, leaf = key.split(".")
    section = functools.reduce(lambda section, name: section[name], parents, c)
    with pytest.raises(ConfigError, match=f"{leaf}") as error:
        section[leaf] = value
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "values", [None, 3, [1], "text", {"seed": None}, {1: 2}, {"model": 3}, {"data": {"augment": []}}]
)
def test_what_is_no_saved_config_is_refused(values):
    with pytest.raises(ConfigError):
        from_dict(values)


def test_every_key_has_a_meaning_and_a_default_of_its_type():
    for key, default, entry in typed_leaves(base_config()):
        assert len(entry.meaning) > 5, key
        assert schema.check(key, entry, default) == default, key


def test_json_round_trip():
    c = load_config(str(CONFIGS / "vit_digits.py"))
    again = from_dict(json.loads(to_json(c)))
    assert to_dict(again) == to_dict(c)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_config_files_load_without_jax(path, tmp_path):
    spec = str(path)
    if path.stem == "finetune":  # of photos
        (tmp_path / "class").mkdir()
        for i in range(5):
            (tmp_path / "class" / f"{i}.jpg").touch()
        spec += f":{tmp_path}"
    code = f"import sys; from vision_jax.command_line import load_config; load_config({spec!r}); assert 'jax' not in sys.modules"
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


@pytest.mark.parametrize("duration", ["1e300 steps", "1e308 epochs", "3e9 examples", "2147483648 steps", "1e18 epochs"])
def test_more_steps_than_are_counted_are_refused(duration):
    with pytest.raises(ConfigError, match=r"duration.*2,147,483,648 steps"):
        steps_of(duration, batch_size=1, num_examples=640)


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_a_batch_of_no_size_is_refused(size):
    c = base_config()
    c.batch_size = size
    with pytest.raises(ConfigError, match="batch_size"):
        derive(c, 100)


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


@pytest.mark.parametrize(
    "text", ["{[]: 1}", "{{}}", "(" * 300, "-" * 3000 + "1", "[" * 5000, "9" * 5000, "9**9**9", "'\\d'", "1if 1else 2"]
)
def test_what_is_no_literal_stays_text(text, recwarn):
    ((_, value),) = parse_overrides([f"--config.model.act={text}"], base_config())
    assert value == text.strip("'") and not recwarn.list
