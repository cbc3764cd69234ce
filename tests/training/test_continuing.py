"""Starting again in a work folder: what may change, what is accepted knowingly, and what is missing is made up for."""

import json
import shutil

import chex
import pytest
from tiny_run import config_of, lines

from vision_jax.errors import ConfigError
from vision_jax.training import loop
from vision_jax.weights.work_folder import load_variables, locate, metric_rows


@pytest.fixture
def run(straight, tmp_path):
    """A copy of it, half done: the checkpoint of step 4 and what was written up to there, its evaluation not yet."""
    shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    (tmp_path / "run" / "summary.json").unlink()
    rows = [row for row in metric_rows(straight) if row["step"] <= 4 and "classification/top1" not in row]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "run"


def record(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_an_evaluation_that_a_kill_cut_off_is_made_up_for(run, straight, data):
    """The checkpoint comes before the evaluation of its step, so that the latter may be missing."""
    loop.train(config_of(data), run)
    assert lines(run) == lines(straight)
    assert not (run / "lock").exists()


def test_means_go_on_where_a_kill_cut_them_off(data, tmp_path):
    """Whatever lies between two lines; each is the mean over the steps since the one before."""
    config = config_of(data, log__every="3 steps", checkpoint__every="2 steps", checkpoint__keep=9)
    losses = []
    for every, name in (("1 steps", "each"), ("3 steps", "whole")):
        config.log.every = every
        loop.train(config, tmp_path / name, callbacks=[lambda step, numbers: losses.append(numbers.get("train/loss"))])
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / str(step))
    (tmp_path / "killed" / "summary.json").unlink()
    loop.train(config, tmp_path / "killed")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    each = [row["train/loss"] for row in lines(tmp_path / "each") if "train/loss" in row]
    means = {row["step"]: row["train/loss"] for row in lines(tmp_path / "whole") if "train/loss" in row}
    assert means == {3: sum(each[:3]) / 3, 6: sum(each[3:6]) / 3, 8: sum(each[6:]) / 2}
    assert [loss for loss in losses if loss] == [*each, *means.values()]  # what callbacks were told
    rows = [row for row in metric_rows(tmp_path / "whole") if "train/loss" in row]
    assert [row["train/epoch"] for row in rows] == [1.5, 3.0, 4.0]
    assert all(row["train/images_per_second"] > 0 and 0 <= row["train/data_share"] <= 1 for row in rows)
    assert rows[0]["train/seconds"] < rows[1]["train/seconds"] < rows[2]["train/seconds"]


def test_a_finished_run_lacks_no_evaluation_either(straight, data, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    lines = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    loop.train(config_of(data), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "".join(lines)


@pytest.mark.parametrize(
    "keys",
    [
        {
            "log__every": "1 steps",
            "checkpoint__keep": 1,
            "checkpoint__best": "classification/loss",
            "checkpoint__best_mode": "min",
        },
        {"data__eval": "digits:test"},
        {"evals__classification__every": "1 steps", "evals__batch_size": 3, "data__eval_resize": "squash"},
        {"data__workers": 0, "data__threads": 1, "data__prefetch": 1, "model__remat": "full"},
    ],
)
def test_what_may_change(run, straight, data, keys):
    config = config_of(data, **keys)
    if "data__eval" in keys:
        config.data.eval = f"folder:{data}/train"
    loop.train(config, run)
    chex.assert_trees_all_close(*(load_variables(locate(workdir, "8")) for workdir in (run, straight)), atol=1e-6)
    assert record(run)["accepted"] == []


@pytest.mark.parametrize(
    "keys, accept",
    [
        ({"schedule__base_lr": 0.5}, "schedule.base_lr"),
        ({"optimizer__weight_decay": 0.5, "optimizer__b1": 0.8}, "optimizer"),
        ({"seed": 1}, "seed"),
    ],
)
def test_other_keys_are_accepted_knowingly(run, data, capsys, keys, accept):
    config = config_of(data, **keys)
    (path,) = list(keys)[:1]
    key = path.replace("__", ".")
    with pytest.raises(ConfigError, match=rf"another config \(.*{key}: was .*--accept=.*{key}"):
        loop.train(config, run)
    loop.train(config, run, accept=[accept])
    assert {entry["key"] for entry in record(run)["accepted"]} == {name.replace("__", ".") for name in keys}
    assert all(entry["step"] == 4 for entry in record(run)["accepted"])
    assert f"accepted from step 4 on: {key}" in capsys.readouterr().out
    loop.train(config, run)  # it is the run's own now


def test_a_finished_run_is_lengthened(straight, data, tmp_path, capsys):
    shutil.copytree(straight, tmp_path / "run")
    config = config_of(data, duration="12 steps")
    with pytest.raises(ConfigError, match="--accept=duration"):
        loop.train(config, tmp_path / "run")
    summary = loop.train(config, tmp_path / "run", accept=["duration"])
    out = capsys.readouterr().out
    assert summary["step"] == 12 and "the schedule now: learning rate" in out and "at the last, step 12" in out
    loop.train(config, tmp_path / "run", accept=["duration"])
    assert "finished     12 steps" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="at step 12, beyond the 8"):
        loop.train(config_of(data), tmp_path / "run", accept=["duration"])


def test_other_data_are_told_and_accepted_knowingly(run, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    shutil.copy(tmp_path / "data" / "train" / "a" / "0.png", tmp_path / "data" / "train" / "a" / "new.png")
    saved = record(run)
    saved["data"].update(train=f"folder:{tmp_path}/data/train", eval=f"folder:{tmp_path}/data/test")
    (run / "config.json").write_text(json.dumps(saved))
    config = config_of(tmp_path / "data")
    with pytest.raises(
        ConfigError, match=r"'a' had 8 files, .*, has 9 files, .*; 16 examples then, 17 now; --accept=data"
    ):
        loop.train(config, run)
    loop.train(config, run, accept=["data"])
    assert [entry["key"] for entry in record(run)["accepted"]] == ["data"]
    assert record(run)["derived"]["data"]["examples"] == 17
    loop.train(config, run)


def test_init_from_is_not_opened_again(run, straight, data, tmp_path):
    shutil.copytree(straight, tmp_path / "source")
    loop.train(config_of(data, init_from=str(tmp_path / "source")), tmp_path / "new")
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "new" / "checkpoints" / "8")
    (tmp_path / "new" / "summary.json").unlink()
    loop.train(config_of(data, init_from=str(tmp_path / "source")), tmp_path / "new")


def test_words_that_accept_knows(run, data):
    with pytest.raises(ConfigError, match=r"--accept=duraton: no such key; did you mean 'duration'"):
        loop.train(config_of(data), run, accept=["duraton"])
