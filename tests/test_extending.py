"""The examples in experiments/extending, used as their readers would, and other parts that are not ours."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.tasks.task import Task

REPO = pathlib.Path(__file__).parents[1]
EXTENDING = REPO / "experiments" / "extending"
FOCAL, SCENES = EXTENDING / "focal" / "shapes_focal.py", EXTENDING / "segmentation" / "scenes.py"
SHORT = {
    "batch_size": 16,
    "duration": "120 steps",
    "model.widths": (4, 8),
    "schedule.warmup": "0 steps",
    "checkpoint.every": "20 steps",
    "evals.recall.every": "60 steps",
    "evals.batch_size": 200,
    "log.tensorboard": False,
}


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    for example in (FOCAL, SCENES):
        monkeypatch.syspath_prepend(str(example.parent))


def command(workdir, cwd) -> subprocess.Popen:
    """The focal example with worker processes, run from elsewhere."""
    words = [sys.executable, "-m", "vision_jax.main", f"--config={FOCAL}", f"--workdir={workdir}"]
    words += [f"--config.{key}={value}" for key, value in SHORT.items()] + ["--config.data.workers=2"]
    path = os.pathsep.join([str(REPO), str(FOCAL.parent)])
    return subprocess.Popen(
        words, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_own_parts_killed_and_resumed_are_those_of_a_run_never_interrupted(tmp_path):
    killed = command(tmp_path / "killed", tmp_path)
    while killed.poll() is None and not list(tmp_path.glob("killed/checkpoints/20")):
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read().decode()
    resumed = command(tmp_path / "killed", tmp_path)
    whole = vj.train(FOCAL, tmp_path / "whole", SHORT)  # without workers, and meanwhile
    assert resumed.wait() == 0, resumed.stderr.read().decode()

    run = vj.open_run(tmp_path / "killed")
    assert run.step == 120 and "batch_stats" in run.variables
    chex.assert_trees_all_equal(run.variables, whole.variables)
    measured = run.evaluate("best")
    assert {"recall/pentagon", "recall/mean", "classification/top1"} <= measured.keys()
    assert measured["recall/mean"] == run.history["recall/mean"].value.max()
    assert run.history["recall/mean"].value.tolist() == whole.history["recall/mean"].value.tolist()

    picture = np.full((24, 24, 3), 128, np.uint8)
    (answer,) = run.predict(picture)
    assert {name for name, _ in answer} == {"triangle", "square", "pentagon"}
    model, variables = vj.load_pretrained(run.workdir, checkpoint="best")
    images = (picture[None] / 255.0 - 0.5) / 0.5
    expected = jax.nn.softmax(run.model.apply(run.variables, images))[0]
    assert dict(answer) == pytest.approx(dict(zip(run.class_names, expected.tolist(), strict=True)), rel=1e-4)
    chex.assert_shape(vj.encode(model, variables, images), (1, 8))


@pytest.mark.slow
def test_segmentation_from_a_swin_of_its_own_shape(tmp_path):
    fields = dict(patch_size=4, width=8, depths=(1, 1), num_heads=(1, 2), window=4)
    swin = vj.create_model("swin_t", **fields, num_classes=3)
    variables = jax.jit(swin.init)(jax.random.key(1), np.zeros((1, 32, 32, 3)))
    vj.save_pretrained(tmp_path / "swin", swin, variables, image_size=32)
    overrides = {
        **{f"model.{name}": value for name, value in fields.items()},
        "init_from": str(tmp_path / "swin"),
        "optimizer.freeze": "(?!classifier).*",
        "data.image_size": 32,
        "data.train": "scenes:Scenes:test[:10%]",
        "data.eval": "scenes:Scenes:test[90%:]",
        "batch_size": 8,
        "duration": "2 steps",
        "schedule.warmup": "0 steps",
        "log.tensorboard": False,
    }
    run = vj.train(SCENES, tmp_path / "run", overrides)
    assert run.summary["iou/mean"] > 0 and np.isfinite(run.summary["train/right"])
    (picture,) = (run.workdir / "pictures").rglob("*.png")
    assert Image.open(picture).size == (3 * 32, 4 * 32)
    kept = {name: tree for name, tree in run.variables["params"].items() if name in variables["params"]}
    assert kept.keys() >= {"patch_embed", "stages_0", "stages_1"}
    chex.assert_trees_all_equal(kept, {name: variables["params"][name] for name in kept})
    scene = np.zeros((96, 96, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"\[32, 32, 4\] a picture.*load_pretrained"):
        run.predict(scene)
    encode = functools.partial(vj.encode, run.model)
    chex.assert_shape(jax.eval_shape(encode, run.variables, np.zeros((1, 32, 32, 3))), (1, 16))
    with pytest.raises(ConfigError, match=r"evals.knn.*offers only task"):
        run.evaluate(overrides={"evals.knn.every": "1 steps"})


def test_both_maps_are_cropped_and_mirrored_alike():
    import scenes

    truth = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    example = {"image": np.repeat(truth[..., None], 3, axis=-1), "labels_map": truth}
    data = scenes.get_config().data
    rows = [scenes.read_scene(data, example, np.random.default_rng(seed)) for seed in range(8)]
    for row in [*rows, scenes.read_scene(data, example, None)]:
        apart = np.abs(row["image"][..., 0].astype(int) - row["labels_map"])
        assert row["labels_map"].shape == (64, 64) and apart.max() <= 2
    assert len({row["labels_map"][0, 0] for row in rows}) > 1


class Grey:
    """No classes and no names: pictures alone."""

    def __init__(self, *_):
        pass

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), 8 * index, np.uint8)}


class Named(Grey):
    class_names = ("dark", "light")

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": index // 16}


class Plain(nn.Module):
    """With batch statistics, and without num_classes."""

    outputs: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train)(nn.Dense(4)(x.mean((1, 2))))
        return nn.Dense(self.outputs)(x)


class Brightness(Task):
    """As the docstring of `Task` has it."""

    def loss(self, variables, batch, rng, train):
        outputs, updated = self.outputs(variables, batch, rng, train)
        target = self.images(batch).mean((1, 2, 3))
        return self.means(batch, updated, loss=(outputs[:, 0] - target) ** 2)


class Error:
    """The worst example's, and what `given` is."""

    metrics = ("worst",)

    def __init__(self, at, *, picture: bool = True):
        self.picture = picture

        def step(variables, batch):
            return at.task.outputs(variables, batch)[0][:, 0], at.task.images(batch).mean((1, 2, 3))

        self.rows = at.rows(step)

    def run(self, variables):
        worst = max(np.abs(outputs - targets).max() for outputs, targets in self.rows(variables))
        return {"worst": worst, "shown": np.zeros((4, 4, 3), np.uint8 if self.picture else np.float32)}


def signed(*, scale: float = 1.0):
    return optax.chain(optax.scale_by_sign(), optax.scale(scale))


class Nothing:
    def __init__(self, at):
        pass


def from_scratch() -> dict:
    c = base_config()
    c.task, c.model.name = f"{__name__}:Brightness", f"{__name__}:Plain"
    c.data = dict(train=f"{__name__}:Grey", eval=f"{__name__}:Grey:again", image_size=8, eval_resize="squash")
    c.data.augment = dict(crop_area=None)
    c.batch_size, c.duration, c.log.tensorboard = 16, "4 steps", False
    c.optimizer = dict(name=f"{__name__}:signed", scale=0.5)
    c.evals.error = dict(kind=f"{__name__}:Error", every="2 steps")
    c.checkpoint.best, c.checkpoint.best_mode = "error/worst", "min"
    return c


def test_a_task_from_scratch(tmp_path):
    run = vj.train(from_scratch(), tmp_path)
    assert run.history["error/worst"].step.tolist() == [2, 4] and len(list(tmp_path.glob("pictures/**/*.png"))) == 2
    assert run.evaluate() == {"error/worst": run.summary["error/worst"]}
    assert type(run.evaluate()["error/worst"]) is float
    with pytest.raises(ConfigError, match="no classes"):
        run.predict(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="Plain has no field 'num_classes'"):
        vj.encode(run.model, run.variables, np.zeros((1, 8, 8, 3)))
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        run.evaluate(overrides={"evals.error": None})


def test_a_classifier_without_num_classes(tmp_path):
    c = from_scratch()
    c.task, c.data.train, c.data.eval = "classification", f"{__name__}:Named", f"{__name__}:Named"
    c.model.outputs, c.evals.error, c.checkpoint.best = 2, None, "classification/top1"
    run = vj.train(c, tmp_path)
    (answer,) = run.predict(np.zeros((8, 8, 3), np.uint8))
    assert {name for name, _ in answer} == {"dark", "light"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evals.error.picture": False}, r"error/shown is float32\[4, 4, 3\].*uint8\[H, W, 3\]"),
        ({"evals.error.kind": f"{__name__}:Nothing"}, "makes no evaluator: it has no 'run'"),
        ({"evals.error.kind": f"{__name__}:Errr"}, "did you mean 'Error'"),
        ({"evals.error.pictur": False}, "no field 'pictur'.*did you mean 'picture'"),
        ({"optimizer.name": "gone.away:rule"}, "optimizer.name.*there is no module 'gone'"),
        ({"task": f"{__name__}:Brightnes"}, "task.*did you mean 'Brightness'"),
        ({"data.train": "shapess:train"}, "no such data source.*did you mean 'shapes'"),
    ],
)
def test_what_is_wrong_is_one_line(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        vj.train(from_scratch(), tmp_path, changes)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "metric", "least"), [(FOCAL, "recall/mean", 0.6), (SCENES, "iou/mean", 0.8)])
def test_the_examples_learn(config, metric, least, tmp_path):
    run = vj.train(config, tmp_path, {"log.tensorboard": False})
    assert run.history[metric].value[-1] > least
