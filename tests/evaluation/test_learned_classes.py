"""Evaluation data whose classes are fewer, or in another order, than those that were learned."""

import jax
import numpy as np
import pytest
from PIL import Image

from vision_jax.errors import ConfigError
from vision_jax.evaluation import evaluation, make_evaluator, measure
from vision_jax.training.partitioning import make_mesh

ROWS = {"ant": 1, "bee": 3, "cow": 5, "dog": 7}  # the bright one of pictures of a class


def write(root, names, count=4):
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture = np.zeros((8, 8, 3), np.uint8)
            picture[ROWS[name]] = 250
            Image.fromarray(picture).save(root / name / f"{i}.png")
    return f"folder:{root}"


@pytest.fixture
def folders(config, tmp_path):
    """A config of two sources: the cow is the third class in one and the second in the other."""
    config.data.train = write(tmp_path / "train", ("ant", "bee", "cow"))
    config.data.eval = write(tmp_path / "eval", ("ant", "cow"))
    config.evals.knn.k, config.evals.linear_probe = 2, {"l2": (0.1,), "shots": (1,)}
    return config


def made(kind, task, config):
    return make_evaluator(kind, config.evals[kind], task, config, make_mesh(config, jax.devices()[:1]))


def test_neighbours_and_probes_tell_classes_by_name(folders, pixels, capsys):
    evaluators = {kind: made(kind, pixels, folders) for kind in ("knn", "linear_probe")}
    metrics = measure(evaluators, {"scale": 1.0})
    assert [metrics[name] for name in ("knn/top1", "linear_probe/top1", "linear_probe/1shot_top1")] == [1, 1, 1]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "lacks 1 of the 3 classes that are learned: 'bee'" in err


def test_evaluators_with_other_numbers_share_features(folders, pixels):
    """What is kept is the source's own; each evaluator has numbers of its own."""
    evaluators = {"all": made("knn", pixels, folders)}
    folders.evals.knn.train = folders.data.eval
    evaluators["few"] = made("knn", pixels, folders)
    for order in (1, -1):
        assert measure(dict(list(evaluators.items())[::order]), {"scale": 1.0}) == {"all/top1": 1, "few/top1": 1}


@pytest.mark.parametrize("kind", ["knn", "linear_probe"])
def test_a_class_that_was_not_learned(kind, folders, pixels, tmp_path):
    folders.data.eval = write(tmp_path / "more", ("ant", "dog"))
    message = r"evaluation source '.*' has the class 'dog', which '.*', from which evals.* learns,"
    with pytest.raises(ConfigError, match=message):
        made(kind, pixels, folders)


def test_sources_without_names_go_by_number(folders, pixels, monkeypatch):
    """As many classes as were learned, or fewer."""
    opened = evaluation.open_source

    def unnamed(spec, tfds_dir):
        source = opened(spec, tfds_dir=tfds_dir)
        source.class_names = ()
        return source

    monkeypatch.setattr(evaluation, "open_source", unnamed)
    assert made("knn", pixels, folders).numbers.tolist() == [0, 1]
    folders.evals.knn.train = folders.data.eval
    folders.data.eval = folders.data.train
    with pytest.raises(ConfigError, match=r"has 3 classes, 'folder:.*', from which evals.knn learns, only 2"):
        made("knn", pixels, folders)
