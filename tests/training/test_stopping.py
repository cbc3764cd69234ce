"""A run that a signal or a failure ends early: what could be saved is, and starting again makes the rest the same."""

import os
import re
import signal

import pytest
from tiny_run import config_of, lines

from vision_jax.data import reading
from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.training import loop, start


def fails_at(function, call, failure):
    """The function, whose call of this number (from 1) does something else first."""
    calls = iter(range(1, 10**6))

    def counting(*args, **kwargs):
        if next(calls) == call:
            failure()
        return function(*args, **kwargs)

    return counting


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def raises(error):
    def failure():
        raise error

    return failure


def stopped(config, workdir, error):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(error) as caught:
        loop.train(config, workdir)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not (workdir / "lock").exists()
    return caught.value


@pytest.mark.parametrize(
    "module, name, call, said",
    [
        (start, "prepare", 1, "stopped by SIGTERM"),
        (loop, "compile_step", 1, "stopped by SIGTERM"),
        (reading, "decode", 1, "stopped by SIGTERM before the first step"),
        (loop.Loop, "_next", 6, "stopped by SIGTERM after step [56]: saved; the same command continues"),
        (loop.Loop, "save", 1, "stopped by SIGTERM after step [45]: saved; the same command continues"),
        (loop, "measure", 1, "stopped by SIGTERM after step 4: saved; the same command continues"),
        (loop, "measure", 2, "stopped by SIGTERM after step 8: saved; the same command continues"),
    ],
)
def test_a_signal_at_any_moment_changes_nothing(module, name, call, said, data, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, name, fails_at(getattr(module, name), call, terminate))
        error = stopped(config_of(data), tmp_path / "run", Stopped)
    assert error.number == signal.SIGTERM
    assert re.fullmatch(said, str(error))
    loop.train(config_of(data), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(straight)


@pytest.mark.parametrize(
    "module, name, call, failure, error, said",
    [
        (
            reading,
            "decode",
            60,
            RuntimeError("no such camera"),
            RunError,
            "training data: RuntimeError: no such camera; step",
        ),
        (
            reading,
            "decode",
            60,
            MemoryError(),
            RunError,
            "training data: MemoryError: ; step [0-9] is saved, and the same",
        ),
        (
            loop,
            "measure",
            1,
            OSError(5, "Input/output error"),
            RunError,
            "evaluation: .*Input/output error; step 4 is saved",
        ),
        (loop, "measure", 2, ConfigError("none can be read"), ConfigError, "none can be read .step 8 is saved"),
    ],
)
def test_a_failure_saves_first(module, name, call, failure, error, said, data, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, name, fails_at(getattr(module, name), call, raises(failure)))
        assert re.match(said, str(stopped(config_of(data), tmp_path / "run", error)))
    loop.train(config_of(data), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(straight)


def test_a_report_that_cannot_be_written(data, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        full = OSError(28, "No space left on device", "metrics.jsonl")
        patched.setattr(loop.Reporter, "write", fails_at(loop.Reporter.write, 4, raises(full)))
        error = stopped(config_of(data), tmp_path / "run", RunError)
    assert str(error).startswith(
        "cannot write metrics.jsonl after step 6: No space left on device; the checkpoint of step 4 is safe"
    )
    loop.train(config_of(data), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(straight)
