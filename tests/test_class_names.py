"""A run on the classes a, b and c, told apart by their colours, and data whose classes are others."""

import contextlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.training.loop import evaluate, train
from vision_jax.weights.work_folder import outputs_of


def write(root: pathlib.Path, names: str, count: int = 8) -> str:
    """A folder of red, green or blue pictures: "a", "b" and "c" are so, or what follows the letter's first class."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 60, (16, 16, 3)) + 190 * np.eye(3, dtype=int)["abc".find(name)]
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{i}.png")
    return f"folder:{root}"


def config_of(data: pathlib.Path):
    config = base_config()
    config.model = {"name": "vit_ti16", "patch_size": 16, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
    config.data = {"train": f"folder:{data}/train", "eval": f"folder:{data}/test", "image_size": 16}
    config.data.augment = {"crop_area": None, "flip": False}
    config.batch_size, config.duration = 16, "40 steps"
    config.schedule = {"base_lr": 0.01}
    config.evals.classification.every, config.checkpoint.every = "20 steps", "20 steps"
    config.log = {"compile_cache": "", "tensorboard": False}
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write(root / "train", "abc"), write(root / "test", "ac")
    return root


@pytest.fixture(scope="module")
def perfect(data, tmp_path_factory):
    """(its work folder, its summary, what it said on stderr)"""
    import contextlib
    import io

    folder, said = tmp_path_factory.mktemp("run"), io.StringIO()
    with contextlib.redirect_stderr(said):
        summary = train(config_of(data), folder)
    return folder, summary, said.getvalue()


def copied(run: pathlib.Path, to: pathlib.Path, names: str) -> pathlib.Path:
    """A copy of a run whose classes are called otherwise."""
    shutil.copytree(run, to, dirs_exist_ok=True)
    config = json.loads((to / "config.json").read_text())
    config["derived"]["class_names"] = list(names)
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_perfect_model_is_perfect_on_some_of_its_classes(perfect):
    _, summary, said = perfect
    assert summary["classification/top1"] == 1 and summary["classification/examples"] == 16
    assert said.count("lacks 1 of the 3 classes that are learned: 'b'") == 1  # of the two evaluations


def test_evaluation_alone(perfect, data, tmp_path):
    run, *_ = perfect
    config = config_of(data)
    assert evaluate(config, run)["classification/top1"] == 1
    other = copied(run, tmp_path / "run", "cab")  # a model that calls a what was c
    assert evaluate(config, other)["classification/top1"] == 0
    assert (
        evaluate(config, other, str(run / "checkpoints" / "40"))["classification/top1"] == 1
    )  # the names are the checkpoint's run's
    config.model.num_classes = 3
    assert (
        evaluate(config, copied(run, tmp_path / "old", ""))["classification/top1"] == 0.5
    )  # it has no names: by number
    config.data.eval = write(tmp_path / "more", "abcd")
    with pytest.raises(
        ConfigError, match=r"evaluation source '.*more' has the class 'd', which the model does not know"
    ):
        evaluate(config, run)


def test_training_refuses_classes_that_it_does_not_learn(data, tmp_path):
    config = config_of(data)
    config.data.eval = write(tmp_path / "test", "ad")
    with pytest.raises(ConfigError, match=r"evaluation source '.*' has the class 'd', which the model does not know"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "old, new, told, accepted",
    [
        (
            "b",
            "bb",
            "'b' is gone; 'bb' is new",
            r"data\.train='.*' has the class 'bb', which the run in .* does not know",
        ),
        ("b", "", "'b' is gone", ""),
        ("", "d", "'d' is new", r"data\.train='.*' has the class 'd', which the run in .* does not know"),
    ],
)
def test_a_run_does_not_go_on_with_other_classes(perfect, data, tmp_path, old, new, told, accepted):
    """Not even where other data are accepted, unless classes are just missing."""
    run = tmp_path / "run"
    shutil.copytree(perfect[0], run)
    shutil.copytree(data, tmp_path / "data")
    config = config_of(tmp_path / "data")
    saved = json.loads((run / "config.json").read_text())
    saved["data"].update(train=config.data.train, eval=config.data.eval)
    (run / "config.json").write_text(json.dumps(saved))
    folder = tmp_path / "data" / "train"
    if old:
        (folder / old).rename(folder / new if new else tmp_path / "gone")
    else:
        shutil.copytree(folder / "a", folder / new)
    with pytest.raises(ConfigError, match=f"not those that the run in .* began with: {told}") as error:
        train(config, run)
    assert "\n" not in str(error.value) and outputs_of(run).names == ("a", "b", "c")
    with pytest.raises(ConfigError, match=accepted) if accepted else contextlib.nullcontext():
        train(config, run, accept=["data"])
    assert outputs_of(run).names == ("a", "b", "c")


def test_a_run_goes_on_with_its_own_numbers(perfect, data, tmp_path):
    """Its classes in another order than the folder's: three more steps, and they are still its own."""
    run = copied(perfect[0], tmp_path / "run", "cab")
    config = config_of(data)
    shutil.rmtree(run / "checkpoints"), (run / "summary.json").unlink()
    summary = train(config, run)
    assert outputs_of(run).names == ("c", "a", "b") and summary["classification/top1"] == 1
    assert evaluate(config, copied(run, tmp_path / "other", "abc"))["classification/top1"] == 0


def test_another_config_is_told_before_other_classes(perfect, data, tmp_path):
    config = config_of(data)
    config.data.train = write(tmp_path / "other", "xyz")
    config.data.eval = config.data.train
    with pytest.raises(ConfigError, match=r"not those that the run in .* began with: data\.train was"):
        train(config, perfect[0])


@pytest.mark.parametrize("names", ['"abc"', '["a", 3]', "null", "{}"])
def test_names_that_no_run_wrote(names, perfect, data, tmp_path):
    text = (perfect[0] / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads(text) | {"derived": {"class_names": json.loads(names)}})
    )
    with pytest.raises(ConfigError, match=r"config\.json: derived\.class_names must be a list of names"):
        outputs_of(tmp_path)
