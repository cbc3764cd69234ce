"""Several real processes on this machine, as several hosts would run them; each simulates two devices."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision_jax.training.throughput import CLOCKED
from vision_jax.weights.work_folder import load_variables, locate, metric_rows

REPO = pathlib.Path(__file__).parents[1]
COMMON = [
    "--config.batch_size=24",
    "--config.duration=12 steps",
    "--config.schedule.warmup=2 steps",
    "--config.log.every=1 steps",
    "--config.log.tensorboard=False",
    "--config.checkpoint.every=5 steps",
    "--config.data.eval=digits:test[:38%]",  # 137 examples: neither batches nor processes have equal shares of them
    "--config.evals.batch_size=20",
]
VIT = ["--config=configs/vit_digits.py", *COMMON, "--config.model.width=32", "--config.model.depth=2"]
VIT += ["--config.model.mlp_dim=64", "--config.model.dropout_rate=0.1", "--config.data.augment.mixup=0.2"]
VIT += ["--config.evals.classification.every=4 steps"]
MAE = ["--config=configs/mae_digits.py", *COMMON, "--config.model.width=32", "--config.model.depth=1"]
MAE += ["--config.model.mlp_dim=64", "--config.model.decoder_depth=1", "--config.data.image_size=16"]
MAE += ["--config.evals.reconstruction.every=6 steps", "--config.evals.reconstruction.examples=30"]
MAE += ["--config.evals.knn.every=12 steps", "--config.evals.linear_probe.every=12 steps"]
MAE += ["--config.evals.linear_probe.l2=(1.0, 0.1)"]  # these converge in a few of the iterations, each a collective
SWIN = ["--config=configs/swin_digits.py", *COMMON, "--config.model.width=24", "--config.model.depths=(1, 2)"]
SWIN += ["--config.model.drop_path_rate=0.1", "--config.evals.classification.every=4 steps"]
CLIP = ["--config=configs/clip_digits.py", *COMMON, "--config.model.image.width=48", "--config.model.image.depth=2"]
CLIP += ["--config.model.image.mlp_dim=96", "--config.model.text_width=32", "--config.model.text_depth=1"]
CLIP += ["--config.evals.zero_shot.every=6 steps", "--config.evals.knn.every=12 steps"]
TENSOR = ["--config.mesh.tensor=-1", "--config.mesh.data=1"]
FSDP = ["--config.mesh.fsdp=-1", "--config.mesh.data=1", "--config.mesh.fsdp_min_size=1"]
EXACT = (
    "classification/examples",
    "classification/top1",
    "classification/top5",
    "zero_shot/top1",
    "zero_shot/top5",
    "knn/top1",
)


def start(workdir, *arguments, processes=1, devices=2, last=()):
    """The processes of one run; `last` are further arguments of the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "vision_jax.main", f"--workdir={workdir}", *arguments]
    together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    own = [[*together, f"--process_id={i}"] for i in range(processes)] if processes > 1 else [[]]
    own[-1] += last
    return [
        subprocess.Popen(
            [*command, *own[i]],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(processes, status=0):
    """What each process wrote to stdout and to stderr."""
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return said


def train(workdir, *arguments, **options):
    return finish(start(workdir, *arguments, **options))


def metrics(workdir):
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in metric_rows(workdir)]


def wait_for_step(workdir, step, processes):
    while not any(line["step"] >= step for line in metrics(workdir)):
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.02)


def assert_same_run(workdir, expected, rtol=1e-4):
    """Numbers of every step equal but for rounding, counts exactly, and so the parameters at the end."""
    ours, theirs = metrics(workdir), metrics(expected)
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            if name in EXACT or name == "step":
                assert a[name] == b[name], (name, a, b)
            elif name != "linear_probe/l2":
                np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-6, err_msg=f"{name} in {a}")
    chex.assert_trees_all_close(final_params(workdir), final_params(expected), rtol=10 * rtol, atol=0.2 * rtol)


def final_params(workdir):
    """Without the keys' biases: the softmax takes no notice of them, so that rounding alone makes their gradient."""
    params = flatten_dict(load_variables(locate(workdir))["params"], sep="/")
    return {name: np.asarray(value) for name, value in params.items() if not name.endswith("key/bias")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Work folders of runs in one process of one device, made once for each model."""
    made = {}

    def run(*arguments):
        if arguments not in made:
            made[arguments] = tmp_path_factory.mktemp("alone")
            train(made[arguments], *arguments, devices=1)
        return made[arguments]

    return run


def test_two_processes_train_as_one(alone, tmp_path):
    said = train(tmp_path, *VIT, processes=2)
    assert_same_run(tmp_path, alone(*VIT))
    assert {line["classification/examples"] for line in metrics(tmp_path) if "classification/examples" in line} == {137}
    assert "train/loss" in said[0][0] and "train/loss" not in said[1][0], "one process prints the table"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("model", [MAE, SWIN, CLIP], ids=["mae", "swin", "clip"])
def test_every_model_trains_as_in_one_process(alone, tmp_path, model, processes):
    train(tmp_path, *model, processes=processes)
    assert_same_run(tmp_path, alone(*model))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [FSDP, TENSOR], ids=["fsdp", "tensor"])
def test_sharded_over_the_processes(alone, tmp_path, mesh):
    """Parameters of which no process has all; and processes that share the rows of a batch."""
    train(tmp_path, *VIT, *mesh, processes=2)
    assert_same_run(tmp_path, alone(*VIT))
    said = finish(start(tmp_path, "--mode=eval", processes=2))
    top1 = json.loads((tmp_path / "summary.json").read_text())["classification/top1"]
    assert f"classification/top1 {top1:.5g}" in said[0][0] and "classification/top1" not in said[1][0]
    assert "finished     " in train(tmp_path, *VIT, *mesh, processes=2)[0][0]


@pytest.mark.slow
def test_start_from_another_run(alone, tmp_path):
    extra = [f"--config.init_from={alone(*VIT)}", "--config.data.image_size=24", "--config.optimizer.ema=0.9"]
    train(tmp_path, *VIT, *FSDP, *extra, processes=2)
    assert_same_run(tmp_path, alone(*VIT, *extra))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_ends_the_others_and_another_number_continues(alone, tmp_path, killed):
    longer = ["--config.duration=60 steps", "--config.checkpoint.every=4 steps"]
    processes = start(tmp_path, *VIT, *longer, "--process_timeout=20", processes=4, devices=1)
    wait_for_step(tmp_path, 10, processes)
    processes[killed].kill()
    began = time.monotonic()
    said = [process.communicate(timeout=60) for process in processes]
    assert time.monotonic() - began < 40, "ended by the time-out, with room for a slow machine"
    for index, (process, (_, err)) in enumerate(zip(processes, said, strict=True)):
        if index != killed:
            last = err.splitlines()[-1]
            assert process.returncode == 1 and last.startswith("error: ") and " lost another process " in last, err[
                -3000:
            ]
    train(tmp_path, *VIT, *longer, processes=2)
    assert_same_run(tmp_path, alone(*VIT, *longer), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_stops_all_at_the_same_step(alone, tmp_path, told):
    longer = ["--config.duration=200 steps", "--config.checkpoint.every=1000 steps", "--config.checkpoint.best="]
    processes = start(tmp_path, *VIT, *longer, processes=2)
    wait_for_step(tmp_path, 5, processes)
    processes[told].send_signal(signal.SIGTERM)
    said = finish(processes, status=128 + signal.SIGTERM)
    assert "stopped by SIGTERM after step" in said[0][1]
    (step,) = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert step == metrics(tmp_path)[-1]["step"] < 200
    train(tmp_path, *VIT, *longer, processes=1, devices=4)
    assert_same_run(tmp_path, alone(*VIT, *longer), rtol=1e-2)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_by_all(alone, tmp_path):
    """What is damaged is one process's part; the others would read theirs."""
    longer = [*FSDP, "--config.checkpoint.every=5 steps"]
    train(tmp_path, *VIT, *longer, processes=2)
    (part,) = (tmp_path / "checkpoints" / "12" / "state").glob("ocdbt.process_1/d")
    for path in part.iterdir():
        path.write_bytes(b"")
    said = train(tmp_path, *VIT, *longer, processes=2)
    assert all("checkpoint 12 is damaged" in err for _, err in said)
    assert (tmp_path / "checkpoints" / "damaged-12").is_dir()
    assert_same_run(tmp_path, alone(*VIT))


@pytest.mark.slow
def test_what_fails_in_one_process_is_told_by_all(tmp_path):
    """As where one machine lacks the data: it says so once, in one line, and none waits for it."""
    processes = start(tmp_path, *VIT, processes=2, last=["--config.data.train=folder:no/such/folder"])
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 2], said
    reason = "data folder 'no/such/folder' does not exist"
    assert said[1].count(f"error: process 1 of 2 failed: {reason}") == 1 and "Traceback" not in said[1]
    assert f"error: process 0 of 2 ends, since process 1 of 2 failed: {reason}" in said[0]
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_work_folders_must_be_shared(tmp_path):
    processes = start(tmp_path / "a", *VIT, processes=2, last=[f"--workdir={tmp_path / 'b'}"])
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("must be one that all 2 processes share" in err for err in said)
