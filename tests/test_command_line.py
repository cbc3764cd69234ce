"""Any command line ends in a run or in one line: a few hundred random ones, and those that once did not."""

import importlib.util
import pathlib
import random
import subprocess
import sys

import pytest

from vision_jax.command_line import report_errors
from vision_jax.errors import ConfigError, RunError
from vision_jax.main import parse

REPO = pathlib.Path(__file__).parents[1]
DIGITS = ["--config=configs/vit_digits.py", "--workdir=nowhere"]


@pytest.fixture(scope="module")
def command_lines():
    """experiments/faults/command_lines.py as a module."""
    path = REPO / "experiments" / "faults" / "command_lines.py"
    spec = importlib.util.spec_from_file_location("command_lines", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["parsed", "prepared"])
def test_random_command_lines(command_lines, kind, monkeypatch):
    monkeypatch.chdir(REPO)
    rng = random.Random(kind)
    check = {"parsed": command_lines.check_parsed, "prepared": command_lines.check_prepared}[kind]
    lines = [command_lines.training_line(rng) for _ in range({"parsed": 400, "prepared": 30}[kind])]
    came = {command_lines.outcome(check, line): line for line in lines}
    assert came.keys() <= {"ran", "one line"}, came
    assert "one line" in came and (kind == "prepared" or "ran" in came)


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer.freeze=(a+)+$x"],
        [r"optimizer.decay=(\w+)+:"],
        ["optimizer.lr_scale=(('([a-z/_0-9]*)*!', 2.0),)"],
        ["mesh.rules=(('(.*)*(.*)*x', ('data',)),)"],
        ["mesh.rules=(('[', ('data',)),)"],
        ["mesh.rules=(1,)"],
        ["mesh.rules=(('.*', ('fsdp', 'fsdp')),)"],
        ["model.width=-1"],
        ["model.width=0"],
        ["model.width=1000000000"],
        ["model.depth=1000000000"],
        ["model.depth=0"],
        ["model.patch_size=0"],
        ["model.patch_size=(1,)"],
        ["model.patch_size=('a','b')"],
        ["model.drop_path_rate=1.0"],
        ["model.norm_eps=0.0"],
        ["model.dtype=float32"],
        ["model.num_heads=7"],
        ["model.pool=none"],
        ["model.head_bias_init=1e308"],
        ["data.image_size=1000000000"],
        ["data.image_size=16384", "model.patch_size=1"],
        ["data.mean=('a','b','c')"],
        ["data.augment.crop_area=('a','b')"],
        ["duration=1e300 steps"],
        ["batch_size=0"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_prepared_ends_in_one_line(command_lines, settings, monkeypatch):
    monkeypatch.chdir(REPO)
    line = [*DIGITS, "--config.model.width=32", "--config.model.depth=1", *(f"--config.{each}" for each in settings)]
    assert command_lines.outcome(command_lines.check_prepared, line) == "one line"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdir="], "--workdir"),
        (["--workdir=" + "a" * 5000], "name too long"),
        (["--workdir=a\0b"], "NUL"),
        (["--workdir=\ud800"], "Unicode"),
        (["--config." + "a" * 5000 + "=1"], "unknown config key"),
        (["--config.__class__=1"], "unknown config key"),
        (["--config.model.__class__.x=1"], "unknown"),
        (["--config.model..x=1"], "unknown config key"),
        (["--config."], "unknown config key"),
        (["--process_id=" + "9" * 30], "--process_id"),
        (["--process_timeout=-1"], "--process_timeout"),
        (["--config=/dev/null/x"], "no config file"),
        (["--config=" + "a" * 5000], "no config file"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_odd_arguments_are_named(argv, words, monkeypatch):
    monkeypatch.chdir(REPO)
    with pytest.raises(ConfigError, match=words) as error:
        parse([*DIGITS, *argv])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("a\x1b[31m\nb"), 2, "error: a\\x1b[31m b"),
        (RunError("full"), 1, "error: full"),
        (PermissionError(13, "Permission denied", "/a/x\n"), 1, "error: '/a/x\\n': Permission denied"),
    ],
)
def test_errors_are_one_line_without_control_characters(error, status, line, capsys):
    def command():
        raise error

    with pytest.raises(SystemExit) as stop:
        report_errors(command)()
    assert (stop.value.code, capsys.readouterr().err) == (status, line + "\n")


@pytest.mark.parametrize("command", ["main", "plan", "predict", "convert", "visualize"])
def test_every_command_helps(command):
    run = subprocess.run(
        [sys.executable, "-m", f"vision_jax.{command}", "--help"], cwd=REPO, capture_output=True, text=True
    )
    assert run.returncode == 0 and "usage" in run.stdout and not run.stderr
