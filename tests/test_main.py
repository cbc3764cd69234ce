"""The command as users run it: train, stop, kill, continue, evaluate, start from another run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.training.throughput import CLOCKED
from vision_jax.weights import sources
from vision_jax.weights.work_folder import load_variables, locate

REPO = pathlib.Path(__file__).parents[1]
SMALL = [
    "--config.model.width=32",
    "--config.model.depth=2",
    "--config.model.mlp_dim=64",
    "--config.model.dropout_rate=0.1",
    "--config.data.augment.mixup=0.2",
    "--config.optimizer.ema=0.9",
    "--config.duration=60 steps",
    "--config.schedule.warmup=5 steps",
    "--config.checkpoint.every=7 steps",
    "--config.evals.classification.every=20 steps",
    "--config.log.every=5 steps",
]
PRETRAIN = [
    "--config=configs/mae_digits.py",
    "--config.data.image_size=16",
    "--config.model.width=32",
    "--config.model.depth=1",
    "--config.model.mlp_dim=64",
    "--config.model.decoder_depth=1",
    "--config.batch_size=32",
    "--config.duration=60 steps",
    "--config.schedule.warmup=5 steps",
    "--config.checkpoint.every=7 steps",
    "--config.evals.reconstruction.every=30 steps",
    "--config.evals.reconstruction.examples=32",
    "--config.evals.knn.every=",
    "--config.log.every=5 steps",
]


def start(workdir, *extra, devices=1):
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # compiled as users' runs are
    command = [sys.executable, "-m", "vision_jax.main", f"--workdir={workdir}", *extra]
    return subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err[-3000:]
    return out, err


def train(workdir, *extra, **options):
    return finish(start(workdir, "--config=configs/vit_digits.py", *SMALL, *extra, **options))


def metrics(workdir):
    """step -> metrics, without what a clock says."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run never interrupted."""
    workdir = tmp_path_factory.mktemp("straight")
    train(workdir)
    return workdir


def assert_same_run(a, b):
    final_a, final_b = (jax.tree.map(np.asarray, load_variables(locate(workdir, "60"))) for workdir in (a, b))
    chex.assert_trees_all_equal(final_a, final_b)
    assert metrics(a) == metrics(b)


def test_work_folder(straight):
    config = json.loads((straight / "config.json").read_text())
    assert config["model"]["width"] == 32 and config["derived"]["steps"]["duration"] == 60
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["classification/examples"] == 360 and 0 <= summary["classification/top1"] <= 1
    assert {line["step"] for line in metrics(straight)} == set(range(5, 61, 5))
    assert list((straight / "tensorboard").glob("events*"))
    assert (straight / "checkpoints" / "60").is_dir()


def test_evaluation_alone_gives_the_run_s_last_metrics(straight):
    summary = json.loads((straight / "summary.json").read_text())
    out, _ = finish(start(straight, "--mode=eval"))
    assert f"classification/top1 {summary['classification/top1']:.5g}" in out and "classification/examples 360" in out
    out, _ = finish(start(straight, "--mode=eval", "--checkpoint=best"))
    best = max(line["classification/top1"] for line in metrics(straight) if "classification/top1" in line)
    assert f"classification/top1 {best:.5g}" in out


def test_evaluation_needs_no_training_data(straight):
    out, _ = finish(start(straight, "--mode=eval", "--config.data.train=folder:no/such/folder"))
    assert "classification/examples 360" in out


def test_a_finished_run_stays_as_it_is(straight):
    before = metrics(straight)
    out, _ = train(straight)
    assert out.startswith("finished     60 steps") and metrics(straight) == before


def test_another_config_in_the_same_work_folder_is_an_error(straight):
    process = start(straight, "--config=configs/vit_digits.py", *SMALL, "--config.schedule.base_lr=1.0")
    _, err = finish(process, status=2)
    assert "schedule.base_lr: was 0.001, is 1.0" in err and len(err.strip().splitlines()) == 1


def test_a_kill_changes_nothing(straight, tmp_path):
    process = start(tmp_path, "--config=configs/vit_digits.py", *SMALL)
    wait_for(tmp_path / "metrics.jsonl", process)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: make it longer"
    train(tmp_path, "--config.data.workers=2")
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_a_kill_changes_nothing_of_pre_training_either(tmp_path):
    """Which patches are hidden belongs to the step, and so do the pictures."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight, *PRETRAIN))
    process = start(killed, *PRETRAIN, "--config.data.workers=1")
    wait_for(killed / "metrics.jsonl", process, more_than=2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: make it longer"
    finish(start(killed, *PRETRAIN))
    assert_same_run(straight, killed)
    drawn = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("pictures/**/*.png")}
        for folder in (straight, killed)
    ]
    assert len(drawn[0]) == 2 and drawn[0] == drawn[1]


def metrics_lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(path, process, more_than=0):
    """Returns when the file has more lines than that."""
    while len(metrics_lines(path.parent)) <= more_than:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)


def test_a_checkpoint_continues_on_another_mesh(straight, tmp_path):
    process = start(tmp_path, "--config=configs/vit_digits.py", *SMALL, "--config.checkpoint.every=10 steps")
    wait_for(tmp_path / "metrics.jsonl", process, more_than=3)
    process.send_signal(signal.SIGTERM)
    finish(process, status=128 + signal.SIGTERM)
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.mesh.fsdp_min_size=1"]
    out, _ = train(tmp_path, "--config.checkpoint.every=10 steps", *mesh, devices=8)
    assert "mesh.fsdp: the same sums in another order: results differ by rounding" in out
    losses, expected = (
        [line["train/loss"] for line in metrics(w) if "train/loss" in line] for w in (tmp_path, straight)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_start_from_another_run_at_another_resolution(straight, tmp_path):
    extra = [
        f"--config.init_from={straight}",
        "--config.data.image_size=(24, 20)",
        "--config.duration=1 steps",
        "--config.schedule.warmup=0 steps",
    ]
    misfit = start(tmp_path, "--config=configs/vit_digits.py", *SMALL, *extra, "--config.model.mlp_dim=32")
    assert "model.mlp_dim=32 is 64 there; --config.model.mlp_dim=64" in finish(misfit, status=2)[1]
    out, _ = train(tmp_path, *extra)  # in the same work folder: nothing of the failure stayed
    assert "resized: pos_embed" in out and "dropped" not in out


def test_a_work_folder_is_a_source_of_weights(straight):
    folder = locate(straight)
    for source, checkpoint in ((straight, "last"), (straight, 60), (straight / "checkpoints", "60"), (folder, "last")):
        model, variables = vj.load_pretrained(source, checkpoint=checkpoint)
        chex.assert_trees_all_equal(variables, load_variables(folder))
    assert (model.num_classes, model.width, model.pool) == (10, 32, "gap")
    best = vj.load_pretrained(straight, checkpoint="best")[1]
    chex.assert_trees_all_equal(best, load_variables(locate(straight, "best")))
    with pytest.raises(ConfigError, match="it is a run of 'vit_ti16', and no 'mae'"):
        vj.load_pretrained(straight, name="mae")
    with pytest.raises(ConfigError, match=r"no checkpoint '7' in .*there are best, last, .*60"):
        vj.load_pretrained(straight, checkpoint=7)
    config = json.loads((straight / "config.json").read_text())
    source = sources.open_weights(straight)
    assert source.class_names == tuple(config["derived"]["class_names"]) == tuple("0123456789")
    how = vj.preprocessing(straight)
    assert how == vj.Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3, "bicubic", "squash", 0.875)
    test = open_source("digits:test")
    images = np.stack([how(test[i]["image"]) for i in range(len(test))])
    right = np.asarray(jax.jit(model.apply)(vj.load_pretrained(straight)[1], images)).argmax(1) == test.labels
    assert right.mean() == json.loads((straight / "summary.json").read_text())["classification/top1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"depth": 5}}, "it does not hold 'blocks_"),
        ({"model": {"num_classes": 7}}, "it does not hold 'head/"),
        ({"model": {"representation_size": 8}}, "it holds 'head/kernel'|it does not hold '"),
        ({"model": {"width": 64}}, "the model needs"),
        ({"model": {"depth": 10**9}}, "model field 'depth' must lie between 1 and 1,000, got 1000000000"),
        ({"data": {"image_size": 10**9}}, "for images of"),
        ({"checkpoint": {"best": 3}}, "checkpoint.best"),
        ({"derived": {"class_names": "ab"}}, "class_names must be a list of names"),
    ],
)
def test_a_work_folder_whose_config_was_changed(straight, tmp_path, change, words):
    config = json.loads((straight / "config.json").read_text())
    for section, values in change.items():
        config[section] |= values
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(straight / "checkpoints")
    with pytest.raises(ConfigError, match=words) as caught:
        vj.load_pretrained(tmp_path)
    assert str(caught.value).isprintable()


def test_a_run_in_another_form(straight, tmp_path):
    """Scanned, at another resolution, for other classes; and through a folder of timm's back to ours."""
    model, variables = vj.load_pretrained(straight, scan=True, image_size=(24, 20), num_classes=3)
    assert variables["params"]["blocks"]["norm1"]["scale"].shape == (2, 32)
    assert variables["params"]["pos_embed"].shape == (1, 30, 32) and model.num_classes == 3
    model, variables = vj.load_pretrained(straight)
    how, names = vj.preprocessing(straight), sources.open_weights(straight).class_names
    vj.save_pretrained(tmp_path, model, variables, "timm", preprocessing=how, class_names=names)
    again, same = vj.load_pretrained(tmp_path)
    chex.assert_trees_all_equal(same, variables)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(*(jax.jit(m.apply)(variables, images) for m in (model, again)))
    assert sources.open_weights(tmp_path).class_names == names
