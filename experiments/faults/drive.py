"""Driving a training command from outside: start it, wait for a moment of it, hit it, and compare what is left.

Nothing here asks the program how it is: its files, its processes and its last words are all that counts.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from processes import all_processes, command_line, descendants, resident, session

from vision_jax.training.throughput import CLOCKED

REPO = pathlib.Path(__file__).parents[2]
CONFIG = "--config=experiments/faults/tiny.py"
STEPS = 300  # of the config: about two seconds of steps
PATIENCE = 180  # seconds after which a command counts as hanging


class Unexpected(Exception):
    """The command did something that leaves a scenario no way to go on."""


@dataclasses.dataclass
class Row:
    """One line of the table; `wrong` says what was not as promised, `skipped` why nothing could be tried."""

    kind: str
    done: str
    said: str = ""
    status: str = ""
    seconds: float = 0.0
    megabytes: int = 0
    wrong: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def verdict(self) -> str:
        return "skipped" if self.skipped else "FAILED" if self.wrong else "OK"


class Run:
    """One start of a command, leader of a process group of its own. Its output lies in files, so it never blocks."""

    def __init__(self, command: list[str], logs: pathlib.Path, environment: dict):
        self.out_file, self.err_file = (logs.with_name(f"{logs.name}.{end}") for end in ("out", "err"))
        self.began, self.seconds, self.status, self.peak = time.monotonic(), 0.0, None, 0
        with self.out_file.open("wb") as out, self.err_file.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=REPO, env=environment, stdout=out, stderr=err, start_new_session=True
            )
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    def _sample(self) -> None:
        while self.process.poll() is None:
            self.peak = max(self.peak, sum(map(resident, (self.pid, *descendants(self.pid)))))
            time.sleep(0.2)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_file.read_text(errors="replace")

    @property
    def last(self) -> str:
        """The last line on stderr, or on stdout where stderr is empty."""
        lines = [line for line in (self.err.strip() or self.out.strip()).splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def alive(self) -> bool:
        return self.process.poll() is None

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Returns once `condition()` holds; raises Unexpected where the command ends before, or nothing happens."""
        end = time.monotonic() + patience
        while not condition():
            if not self.alive():
                raise Unexpected(f"ended with status {self.process.returncode} before {what}: {self.last}")
            if time.monotonic() > end:
                self.kill()
                raise Unexpected(f"no {what} within {patience} s: {self.last}")
            time.sleep(0.002)

    def until_step(self, workdir: pathlib.Path, step: int) -> None:
        self.until(lambda: last_step(workdir) >= step, f"step {step}")

    def tell(self, number: int, group: bool = False) -> None:
        """Sends a signal to the command, or to all of its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number) if group else self.process.send_signal(number)

    def kill(self) -> None:
        self.tell(signal.SIGKILL, group=True)
        self.process.wait()

    def finish(self, patience: float = PATIENCE) -> "Run":
        """Waits for the end; a hang is ended, and its status is "hang"."""
        started = time.monotonic()
        try:
            self.status = str(exit_status(self.process.wait(patience)))
        except subprocess.TimeoutExpired:
            self.kill()
            self.status = "hang"
        self.ending, self.seconds = time.monotonic() - started, time.monotonic() - self.began
        self._watch.join()
        return self

    def workers(self) -> list[int]:
        """Process ids of its data workers."""
        return [pid for pid in descendants(self.pid) if b"spawn_main" in command_line(pid)]

    def orphans(self, patience: float = 10) -> list[int]:
        """Processes of its session that still run `patience` seconds after its end."""
        end = time.monotonic() + patience
        while (left := [pid for pid in all_processes() if session(pid) == self.pid]) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def row(self, kind: str, done: str, *wrong: list[str]) -> Row:
        wrong_all = tuple(text for part in wrong for text in part)
        return Row(kind, done, self.last, self.status or "", self.seconds, self.peak // 2**20, wrong_all)

    def check(
        self, status: int | tuple[int, ...], *words: str, lines: int | None = None, within: float | None = None
    ) -> list[str]:
        """What is not as promised: exit status, words of the last line, no traceback, at most so many lines on stderr.

        `within`: seconds from its start to its end that are generous even on a busy machine.
        """
        wanted = status if isinstance(status, tuple) else (status,)
        wrong = [] if self.status in map(str, wanted) else [f"exit status {self.status}, not {status}"]
        wrong += [f"its last line lacks {word!r}" for word in words if word.lower() not in self.last.lower()]
        if "Traceback" in self.err:
            wrong.append(f"{self.err.count('Traceback')} traceback(s)")
        said = [line for line in self.err.splitlines() if line.strip()]
        if sum(line.startswith("error: ") for line in said) > 1:
            wrong.append("more than one line of error")
        if lines is not None and len(said) > lines:
            wrong.append(f"{len(said)} lines on stderr, not {lines}")
        if within and self.seconds > within:
            wrong.append(f"took {self.seconds:.0f} s")
        return wrong


class Scratch:
    """A folder of work folders and logs with one compilation cache, and the quiet runs that others are held against."""

    def __init__(self, root: pathlib.Path, *, seed: int = 0, kills: int = 60, quick: bool = False):
        self.root, self.seed, self.kills, self.quick, self.count = root, seed, kills, quick, 0
        self.runs: list[Run] = []
        self.made: dict[tuple[str, ...], pathlib.Path] = {}
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)  # a command that runs as nobody must find its work folder in it

    def folder(self, name: str) -> pathlib.Path:
        """A path of this name at which nothing lies."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def start(
        self,
        workdir: Any,
        *arguments: str,
        config: str = CONFIG,
        program: tuple[str, ...] = ("-m", "vision_jax.main"),
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> Run:
        """Starts training in `workdir` by `config`, or runs what `program` and `arguments` say."""
        self.count += 1
        logs = self.root / "logs" / f"{self.count:04d}"
        logs.parent.mkdir(exist_ok=True)
        command = [*prefix, sys.executable, *program, f"--workdir={workdir}", *([config] if config else []), *arguments]
        changed = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
        changed |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        changed |= {"JAX_COMPILATION_CACHE_DIR": str(self.root / "cache"), "PYTHONPATH": str(REPO)}
        self.runs.append(Run(command, logs, changed | (environment or {})))
        return self.runs[-1]

    def close(self) -> None:
        """Ends whatever still runs."""
        for run in self.runs:
            if run.alive():
                run.kill()
        self.runs.clear()

    def train(self, workdir: Any, *arguments: str, **options: Any) -> Run:
        """The same, to its end."""
        return self.start(workdir, *arguments, **options).finish()

    def stopped(self, name: str, step: int) -> pathlib.Path:
        """The work folder of a run that SIGTERM stopped once it had reported a step."""
        workdir = self.folder(name)
        run = self.start(workdir)
        run.until_step(workdir, step)
        run.tell(signal.SIGTERM)
        run.finish()
        return workdir

    def quiet(self, *arguments: str) -> pathlib.Path:
        """The work folder of a run that nothing disturbed, made once for these arguments."""
        if arguments not in self.made:
            self.made[arguments] = self.undisturbed(*arguments)
        return self.made[arguments]

    def undisturbed(self, *arguments: str) -> pathlib.Path:
        workdir = self.folder(f"quiet{self.count}")
        run = self.train(workdir, *arguments)
        if run.status != "0":
            raise Unexpected(f"an undisturbed run ends with exit status {run.status}: {run.last}")
        return workdir

    def same(self, workdir: pathlib.Path, *arguments: str) -> list[str]:
        """What of a finished run differs from the quiet run of these arguments: bits of the state, metrics, leftovers."""
        return differences(workdir, self.quiet(*arguments))

    def continued(
        self, workdir: pathlib.Path, *arguments: str, like: tuple[str, ...] = (), **options: Any
    ) -> list[str]:
        """Runs the same command again, to the end: what is wrong with how it ends and with what it has made.

        `like`: the arguments of the quiet run; `arguments` may have more that change nothing.
        """
        run = self.train(workdir, *like, *arguments, **options)
        if wrong := run.check(0):
            return [f"continued: {text} ({run.last})" for text in wrong]
        return self.same(workdir, *like)


def exit_status(code: int) -> int:
    """As a shell and schedulers tell it: 128 + the signal that ended a process."""
    return 128 - code if code < 0 else code


def metrics(workdir: pathlib.Path) -> list[dict]:
    """The whole lines of metrics.jsonl, without what a clock says."""
    try:
        text = (workdir / "metrics.jsonl").read_text()
    except OSError:
        return []
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]


def last_step(workdir: pathlib.Path) -> int:
    """The step of the last whole line of metrics.jsonl, 0 where there is none."""
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            whole = file.read().rpartition(b"\n")[0]
        return json.loads(whole.splitlines()[-1])["step"] if whole else 0
    except (OSError, ValueError):
        return 0


def checkpoints(workdir: pathlib.Path) -> list[int]:
    """The steps of the checkpoints, in order."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def bits(checkpoint: pathlib.Path) -> dict[str, tuple]:
    """Path -> dtype, shape and bytes of every array of a state, optimizer and average included, read by Orbax alone."""
    import warnings

    import jax
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings(action="ignore"):
        leaves = jax.tree_util.tree_leaves_with_path(ocp.load(checkpoint))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def differences(workdir: pathlib.Path, quiet: pathlib.Path) -> list[str]:
    """What of a finished run differs from a quiet one's."""
    steps, wanted = checkpoints(workdir), checkpoints(quiet)
    if not steps or steps[-1] != wanted[-1]:
        return [f"its last checkpoint is {steps[-1:]}, not {wanted[-1:]}"]
    ours, theirs = (bits(folder / "checkpoints" / str(wanted[-1])) for folder in (workdir, quiet))
    wrong = [f"other bits in {name}" for name in sorted(theirs) if ours.get(name) != theirs[name]][:1]
    ours, theirs = metrics(workdir), metrics(quiet)
    if ours != theirs:
        first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), "the end")
        wrong.append(f"metrics.jsonl differs from line {first} ({len(ours)} and {len(theirs)} lines)")
    left = [path.name for path in (workdir / "checkpoints").iterdir() if "tmp" in path.name]
    return wrong + [f"left behind: {', '.join(left)}"] * bool(left)


def saved_at(run: Run, workdir: pathlib.Path) -> list[str]:
    """Wrong, unless the newest checkpoint is that of the last step which metrics.jsonl tells of."""
    newest, step = (checkpoints(workdir) or [None])[-1], last_step(workdir)
    return [] if newest == step else [f"metrics end at step {step}, the newest checkpoint is {newest} ({run.last})"]


def stopped_by(run: Run, number: signal.Signals, workdir: pathlib.Path) -> list[str]:
    """What is wrong with the end of a run that a signal stopped while it trained: status, words, what is saved."""
    wrong = run.check(128 + number, f"stopped by {number.name} after step", "saved; the same command continues")
    return wrong + saved_at(run, workdir) + [f"process {pid} runs on" for pid in run.orphans()]


def untouched(workdir: pathlib.Path) -> dict[str, bytes]:
    """Content of every file of a work folder, to see that a command which was refused has changed none."""
    files = (path for path in workdir.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(workdir)): path.read_bytes() for path in sorted(files)}
