"""Where reports go besides the work folder."""

import io
import json
import math
import struct
import subprocess
import sys
import types

import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.training.reporting import Reporter
from vision_jax.training.targets import RunInfo, check_targets, open_targets
from vision_jax.training.terminal import Terminal

PICTURE = np.zeros((4, 6, 3), np.uint8)


class Own:
    """A target as a user writes it, but for its faults."""

    def __init__(self, run, *, fails_at: int = -1):
        self.run, self.fails_at, self.got = run, fails_at, []

    def write(self, step, numbers):
        if step == self.fails_at:
            raise RuntimeError("the server\nis gone")
        self.got.append((step, numbers))


class Whole(Own):
    closed = False

    def picture(self, step, name, picture):
        self.got.append((step, name, picture.shape))

    def close(self):
        self.closed = True


@pytest.fixture
def imported_anew():
    """Modules that import what a test puts in place of a library, before and after it."""

    def forget():
        for name in ("tensorboard", "weights_and_biases"):
            sys.modules.pop(f"vision_jax.training.{name}", None)

    forget()
    yield
    forget()


def log_with(**keys):
    config = base_config()
    config.log = {"tensorboard": False, **keys}
    return config.log


def own(kind, **fields):
    return log_with(targets={"mine": {"kind": f"{__name__}:{kind}", **fields}})


def opened(log, workdir, start_step=0, **keys):
    targets = open_targets(log, RunInfo(workdir, {"seed": 3}, start_step))
    stream = io.StringIO()
    keys = {"total_steps": 100, "batch_size": 8, "epoch_size": 80, "start_step": start_step, **keys}
    return Reporter(workdir, targets=targets, terminal=Terminal(stream), **keys), list(targets.values()), stream


def test_a_target_gets_what_is_written_and_callbacks_do(tmp_path):
    told = []
    reporter, (target,), _ = opened(own("Whole"), tmp_path, callbacks=[lambda *report: told.append(report)])
    reporter.write(1, {"train/loss": np.float32(0.5), "train/broken": 2})
    reporter.write(2, {"reconstruction/psnr": math.nan, "reconstruction/pictures": PICTURE})
    reporter.close()
    assert target.run == (tmp_path, {"seed": 3}, 0) and target.closed
    assert target.got[:2] == [(1, {"train/loss": 0.5, "train/broken": 2}), (2, "reconstruction/pictures", (4, 6, 3))]
    assert [step for step, _ in told] == [1, 2] and told[0] == target.got[0]
    assert math.isnan(told[1][1]["reconstruction/psnr"])
    assert (tmp_path / "pictures" / "reconstruction" / "pictures_00000002.png").is_file()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1]) == {
        "step": 2,
        "reconstruction/psnr": None,
    }


def test_one_that_fails_is_told_once_and_left_out(tmp_path):
    reporter, (target,), stream = opened(own("Own", fails_at=2), tmp_path)
    for step in (1, 2, 3):
        reporter.write(step, {"train/loss": 1.0, "a/b": PICTURE})  # of which it knows nothing
    reporter.close()
    assert [step for step, _ in target.got] == [1]
    assert stream.getvalue() == ("config.log.targets.mine.kind: RuntimeError: the server; the run goes on without it\n")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (f"{__name__}:Own", {"fails": 1}, "targets.mine.kind=.* has no field 'fails'; did you mean 'fails_at'"),
        (f"{__name__}:Own", {"fails_at": "x"}, "field 'fails_at' must be int, got str 'x'"),
        (f"{__name__}:Owm", {}, "has no 'Owm'; did you mean 'Own'"),
        ("math:sqrt", {}, "is no report target: it has no method write"),
    ],
)
def test_what_cannot_be_is_told_before_the_run(kind, fields, said):
    with pytest.raises(ConfigError, match=said):
        check_targets(log_with(targets={"mine": {"kind": kind, **fields}}))


def tensorboard_events(folder):
    """({tag, step: number}, texts, steps of starts) of event files, read with struct and tensorboardX's protocol buffers."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    scalars, texts, starts = {}, [], []
    for path in sorted(folder.glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log"):
                starts.append(event.step)
            for value in event.summary.value:
                if value.HasField("tensor"):
                    texts += value.tensor.string_val
                elif value.HasField("simple_value"):
                    scalars[value.tag, event.step] = value.simple_value
    return scalars, texts, starts


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    reporter, _, _ = opened(log_with(tensorboard=True), tmp_path, start_step=5)
    reporter.write(6, {"train/loss": 0.5, "train/grad_norm": math.inf, "a/b": PICTURE})
    reporter.close()
    scalars, texts, starts = tensorboard_events(tmp_path / "tensorboard")
    assert scalars == {("train/loss", 6): 0.5, ("train/grad_norm", 6): math.inf}
    assert [json.loads(text) for text in texts] == [{"seed": 3}]
    assert starts == [6]  # readers forget an interrupted run's events from here on


@pytest.mark.parametrize(
    ("needed", "log"),
    [
        ("tensorboardX", log_with(tensorboard=True)),
        ("wandb", log_with(targets={"wandb": {"project": "p"}})),
    ],
)
def test_what_is_not_installed_is_a_clear_error(needed, log, imported_anew, monkeypatch):
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(ConfigError, match=rf"log\.(tensorboard|targets\.wandb).*needs the module '{needed}'"):
        check_targets(log)


def test_neither_tensorflow_nor_torch_is_needed(tmp_path):
    """Where they are installed, too: tensorboardX imports torch if it finds it, and must do without."""
    program = (
        "import pathlib, sys; sys.modules |= dict.fromkeys(['tensorflow', 'torch', 'tensorboard'])\n"
        "from vision_jax.training.reporting import Reporter\n"
        "from vision_jax.training.terminal import Terminal\n"
        "from vision_jax.training.targets import RunInfo\n"
        "from vision_jax.training.tensorboard import TensorBoard\n"
        f"workdir = pathlib.Path({str(tmp_path)!r})\n"
        "targets = {'t': TensorBoard(RunInfo(workdir, {}, 0))}\n"
        "r = Reporter(workdir, terminal=Terminal(None), total_steps=1, batch_size=1, epoch_size=1, targets=targets)\n"
        "r.write(1, {'loss': 1.0}); r.summary(); r.close()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


class FakeWandb(types.ModuleType):
    """What we use of wandb, for as many runs as are begun."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logged, self.finished = [], [], 0

    def init(self, **keys):
        self.inits.append(keys)
        self.id = keys["id"] or f"id{len(self.inits)}"
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values):
        self.logged.append(values)

    def Image(self, picture):
        return picture.shape

    def finish(self):
        self.finished += 1


WANDB = log_with(targets={"wandb": {"project": "digits", "mode": "offline"}})


def test_weights_and_biases_goes_on_with_its_run(tmp_path, imported_anew, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start_step in (0, 4, 0):
        reporter, _, _ = opened(WANDB, tmp_path, start_step)
        reporter.write(start_step + 1, {"train/loss": 0.5, "a/b": PICTURE})
        reporter.close()
    assert [(keys["id"], keys["resume"]) for keys in fake.inits] == [(None, None), ("id1", "allow"), (None, None)]
    assert {(keys["project"], keys["mode"], keys["dir"]) for keys in fake.inits} == {
        ("digits", "offline", str(tmp_path))
    }
    assert fake.inits[0]["config"] == {"seed": 3} and fake.finished == 3
    assert fake.logged[2:4] == [{"step": 5, "a/b": (4, 6, 3)}, {"step": 5, "train/loss": 0.5}]


def test_weights_and_biases_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start_step in (0, 4):
        reporter, _, stream = opened(WANDB, tmp_path, start_step)
        reporter.write(start_step + 1, {"train/loss": math.nan, "a/b": PICTURE})
        reporter.close()
        assert stream.getvalue() == ""
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert {name.rpartition("-")[2] for name in runs} == {(tmp_path / "wandb_id").read_text().strip()}
