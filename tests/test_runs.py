"""Training from Python: what vj.train gives, stopping it and going on, objects in place of names."""

import json
import signal
import threading

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.config import to_dict
from vision_jax.errors import ConfigError
from vision_jax.runs import as_config
from vision_jax.tasks.classification import Classification

TINY = {
    "model": {"name": "vit_ti16", "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16},
    "data": {"image_size": 8, "eval_resize": "squash", "augment": {"crop_area": None, "flip": False}},
    "batch_size": 64,
    "duration": "12 steps",
    "evals": {
        "classification": {"every": "4 steps"},
        "part": {"kind": "classification", "source": "digits:test[:50%]", "every": "4 steps"},
    },
    "checkpoint": {"every": "4 steps", "best": "part/top1"},
    "log": {"every": "2 steps", "tensorboard": False, "compile_cache": ""},
}


class Net(nn.Module):
    num_classes: int = 0
    width: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class Blobs:
    class_names = ("dark", "light")

    def __init__(self, hooks=()):
        self.hooks = dict(hooks)  # example -> called when it is read

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.hooks.pop(index, lambda: None)()
        return {"image": np.full((8, 8, 3), 100 * (index % 2) + index, np.uint8), "label": index % 2}


class Plain(Classification):
    def __init__(self, config, labels, *, gain: float = 1.0, **loss):
        super().__init__(config, labels, **loss)
        self.gain = gain

    def cross_entropy(self, logits, targets):
        return self.gain * super().cross_entropy(logits, targets)


class Mean:
    metrics = ("brightness",)

    def __init__(self, at):
        self.at = at

    def run(self, variables):
        return {"brightness": float(np.mean([np.asarray(batch["image"]).mean() for batch in self.at.batches()]))}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return vj.train(TINY, tmp_path_factory.mktemp("runs") / "quiet")


def test_history_is_metrics_jsonl(quiet):
    rows = [json.loads(line) for line in (quiet.workdir / "metrics.jsonl").read_text().splitlines()]
    told = {(row["step"], name): value for row in rows for name, value in row.items() if name != "step"}
    history = {
        (int(step), name): value for name, series in quiet.history.items() for step, value in zip(*series, strict=True)
    }
    assert history.keys() == told.keys() and all(history[key] == told[key] for key in told)
    assert quiet.history["part/top1"].step.tolist() == [4, 8, 12] == quiet.history["classification/top1"].step.tolist()


def test_a_run_says_what_it_is(quiet):
    assert quiet.step == 12 and quiet.summary["step"] == 12 and "finished" in repr(quiet)
    assert quiet.class_names == tuple("0123456789") == vj.class_names(quiet.workdir)
    images = np.zeros((2, 8, 8, 3), np.float32)
    chex.assert_shape(quiet.model.apply(quiet.variables, images), (2, 10))
    measured = quiet.evaluate()
    assert measured["part/top1"] == quiet.summary["part/top1"] and measured["part/examples"] < 360
    assert vj.evaluate(quiet.workdir, overrides={"evals.part": None}).keys() == {
        name for name in measured if not name.startswith("part/")
    }
    again = vj.open_run(quiet.workdir)
    chex.assert_trees_all_equal(again.variables, quiet.variables)
    with pytest.raises(ConfigError, match="there is no folder"):
        vj.open_run(quiet.workdir / "none")


def test_a_plot_has_a_panel_a_metric(quiet):
    pytest.importorskip("matplotlib").use("agg")
    titles = [axis.get_title() for axis in quiet.plot().axes if axis.get_title()]
    assert {"train/loss", "part/top1", "classification/loss"} <= set(titles) and "part/examples" not in titles
    (axis,) = quiet.plot("part/top1").axes
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), np.stack(quiet.history["part/top1"], axis=1))
    with pytest.raises(ConfigError, match="did you mean 'classification/top5'"):
        quiet.plot("classification/top2")


def test_a_longer_run_goes_on(quiet, tmp_path):
    run = vj.train(TINY, tmp_path, {"duration": "2 steps", "schedule.decay": "constant"})
    run.resume({"duration": "4 steps"}, accept=["duration"])
    assert run.step == 4 and run.config.duration == "4 steps"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_same(number, quiet, tmp_path, capsys):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    stop = lambda step, metrics: step == 6 and signal.raise_signal(number)  # noqa: E731
    run = vj.train(TINY, tmp_path / "run", callbacks=[stop])
    assert not run.summary and 6 <= run.step < 12 and "resume" in capsys.readouterr().out
    assert {each: signal.getsignal(each) for each in before} == before
    run.resume()
    assert run.step == 12
    chex.assert_trees_all_equal(run.variables, quiet.variables)
    names = [
        name for name in run.history if name in quiet.history and "seconds" not in name and "per_second" not in name
    ]
    for name in names:
        if name != "train/data_share":
            np.testing.assert_array_equal(run.history[name], quiet.history[name], name)


def test_objects_stand_for_parts(tmp_path, capsys):
    objects = {"model": Net(2), "task": Plain, "train_data": Blobs(), "eval_data": Blobs()}
    config = {name: value for name, value in TINY.items() if name not in ("model", "evals", "checkpoint")}
    seen = []
    run = vj.train(
        config,
        tmp_path,
        {"duration": "4 steps", "loss.gain": 2.0},
        **objects,
        evaluators={"mean": Mean},
        callbacks=[lambda step, metrics: seen.append((step, metrics))],
    )
    assert run.model.width == 8 and run.class_names == ("dark", "light")
    assert run.summary["mean/brightness"] == pytest.approx(np.mean([100 * (i % 2) + i for i in range(64)]))
    assert seen[-1][0] == 4 and any("mean/brightness" in metrics for _, metrics in seen)
    assert len(capsys.readouterr().out.splitlines()) < 20
    alone = vj.open_run(tmp_path)
    with pytest.raises(ConfigError, match=r"given:task.*vj\.open_run"):
        alone.model  # noqa: B018
    assert vj.open_run(tmp_path, model=Net(2), task=Plain).model == run.model
    objects.pop("train_data")
    measured = vj.evaluate(tmp_path, **objects, evaluators={"mean": Mean})
    assert measured["mean/brightness"] == run.summary["mean/brightness"]


def test_what_a_config_may_be(tmp_path):
    config = as_config(TINY)
    assert to_dict(as_config(config)) == to_dict(config) and as_config(config) is not config
    file = tmp_path / "mine.py"
    file.write_text(
        "from vision_jax.config import base_config\ndef get_config(arg='3'):\n    c = base_config()\n    c.seed = int(arg)\n    return c\n"
    )
    assert as_config(file).seed == 3 and as_config(f"{file}:5").seed == 5 and as_config("vit_digits").model.name
    with pytest.raises(ConfigError, match="vit_digits"):
        as_config("vit_digit")
    with pytest.raises(ConfigError, match="batchsize"):
        vj.train(TINY, tmp_path, {"batchsize": 3})


def test_no_setting_is_left_behind(tmp_path):
    before = jax.config.jax_default_matmul_precision
    with pytest.raises(ConfigError, match="warmup_lr"):
        vj.train(TINY, tmp_path, {"precision.matmul": "highest", "schedule.warmup_lr": -1.0})
    assert jax.config.jax_default_matmul_precision == before and not list(tmp_path.glob("*.json"))


def test_outside_the_main_thread(tmp_path):
    """A notebook's server, or a sweep, may train in a thread; signals are the program's own then."""
    made = []
    thread = threading.Thread(target=lambda: made.append(vj.train(TINY, tmp_path, {"duration": "2 steps"})))
    thread.start()
    thread.join()
    assert made[0].step == 2
