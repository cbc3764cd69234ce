"""What newcomers get wrong is told in one line that they can act on; mistakes in arguments before jax is imported."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import mistakes
import pytest

from vision_jax import cli

_EACH = """
import contextlib, io, json, sys, time
sys.modules["jax"] = None  # importing it ends in ImportError
from vision_jax import cli
for argv in json.load(sys.stdin):
    sys.argv, said, start = ["vision-jax", *argv], io.StringIO(), time.monotonic()
    try:
        with contextlib.redirect_stderr(said):
            status = cli.main()
    except SystemExit as end:
        status = end.code
    print(json.dumps([status, said.getvalue(), time.monotonic() - start]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("newcomer")
    mistakes.make_files(made)
    return made


@pytest.fixture(scope="module")
def told(folder):
    """name -> (exit status, stderr, seconds) of each mistake in arguments, in one process that has no jax."""
    argvs = json.dumps([argv for argv, _ in mistakes.OF_ARGUMENTS.values()])
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _EACH]
    done = subprocess.run(
        command, input=argvs, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(mistakes.OF_ARGUMENTS, map(json.loads, done.stdout.splitlines()), strict=True))


def check(status: int, error: str, words: list[str]) -> None:
    lines = [line for line in error.strip().splitlines() if not line.startswith("skipped")]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), error
    assert len(lines[0]) < 600 and all(word in lines[0] for word in words), lines[0]


@pytest.mark.parametrize("name", mistakes.OF_ARGUMENTS, ids=lambda name: name.replace(" ", "_"))
def test_of_arguments(name, told):
    status, error, seconds = told[name]
    check(status, error, mistakes.OF_ARGUMENTS[name][1])
    assert seconds < 5


@pytest.mark.parametrize("name", mistakes.OF_CONTENTS, ids=lambda name: name.replace(" ", "_"))
def test_of_contents(name, folder, monkeypatch):
    argv, words = mistakes.OF_CONTENTS[name]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["vision-jax", *argv])
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        cli.main()
    check(end.value.code, said.getvalue(), words)
    assert not (folder / "runs" / "new" / "config.json").exists()
