"""What a whole run prints, as a person reads it, and what log.txt keeps of it."""

import re

import pytest

from vision_jax.command_line import load_config
from vision_jax.training.loop import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "digits"


@pytest.fixture(scope="module")
def config():
    config = load_config("vit_digits")
    config.model = dict(width=16, depth=1, num_heads=2, mlp_dim=16)
    config.duration, config.schedule.warmup = "30 steps", "5 steps"
    config.evals.classification.every = "20 steps"
    return config


def test_a_run_from_start_to_end(config, workdir, capsys):
    train(config, workdir)
    out, err = capsys.readouterr()
    assert not err and (workdir / "log.txt").read_text() == out
    lines = out.splitlines()
    compiling = next(i for i, line in enumerate(lines) if line.startswith("compiling the training step ... "))
    start, rest = lines[:compiling], lines[compiling + 1 :]
    assert len(start) <= 20 and all(len(line) <= 100 for line in start)
    assert start[0].startswith("model        ViT, ") and start[0].endswith(" parameters; task classification")
    assert "data         digits:train, 1,437 examples of 10 classes" in start
    assert "evaluation   classification on digits:test" in start
    assert "model.width=16" in "".join(start) and "evals.classification.every=20 steps" in "".join(start)
    assert f"work folder  {workdir}" in start
    steps = [int(line.split("/")[0].split()[1]) for line in rest if line.startswith("step ")]
    assert steps == [1, 2, 5, 10, 20, 30]
    evaluations = [line for line in rest if line.startswith("evaluation at step ")]
    assert [line.split(":")[0] for line in evaluations] == ["evaluation at step 20", "evaluation at step 30"]
    assert evaluations[0].endswith("(best so far, saved)")
    labels = [line[:13].strip() for line in rest[rest.index(evaluations[1]) + 1 :]]
    assert labels == ["finished", "best", "last", "work folder", "next"]
    assert re.search(r"-m vision_jax\.predict --model=\S+ --checkpoint=best PICTURES", rest[-1])


def test_a_finished_run_says_its_result_again(config, workdir, capsys):
    last = (workdir / "log.txt").read_text().splitlines()[-5:]
    train(config, workdir)
    assert capsys.readouterr().out.splitlines() == last


def test_a_run_that_goes_on_says_from_where(config, workdir, capsys):
    config.duration = "40 steps"
    train(config, workdir, accept=["duration"], verbose=True)
    out = capsys.readouterr().out
    assert "continuing   from step 30" in out and "accepted from step 30 on: duration" in out
    assert '"weight_decay"' in out and "parameters train" in out
