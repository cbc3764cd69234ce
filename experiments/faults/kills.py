"""One training that is hit at random moments and started again each time: its result is that of a quiet run."""

import itertools
import os
import pathlib
import random
import signal
import time
from collections.abc import Iterator

from drive import Row, Run, Scratch, Unexpected, last_step, metrics

MOMENTS = ("start-up", "compilation", "steps", "writing a checkpoint", "evaluation")
WAYS = (  # signal, to the whole process group
    (signal.SIGKILL, False),
    (signal.SIGTERM, True),
    (signal.SIGKILL, True),
    (signal.SIGTERM, False),
)
WORKERS = (0, 1, 2)  # 5 x 4 x 3: sixty kills are every combination once
STEPS_PER_KILL = 25
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # so that there is a compilation to hit


def rows(scratch: Scratch) -> Iterator[Row]:
    kills, rng = scratch.kills, random.Random(scratch.seed)
    length = (f"--config.duration={max(300, STEPS_PER_KILL * kills)} steps",)
    quiet, workdir = scratch.quiet(*length), scratch.folder("kills")
    for kill in range(kills):
        moment, (number, group), workers = (each[kill % len(each)] for each in (MOMENTS, WAYS, WORKERS))
        who = "the group" if group else "the process"
        done = f"{kill + 1}: {number.name} to {who} during {moment}, {workers} workers"
        environment = UNCACHED if moment == "compilation" else {}
        before = signature(workdir)
        run = scratch.start(workdir, *length, f"--config.data.workers={workers}", environment=environment)
        try:
            wait_for(moment, run, workdir, before, rng)
        except Unexpected as problem:
            run.kill()
            yield run.finish().row("kills", done, [str(problem)])
            return
        run.tell(number, group)
        yield run.finish().row("kills", done, wrong_with(run, number, moment, workdir))
    wrong = scratch.continued(workdir, like=length)
    done = f"{kills} kills behind it, continued to the end: state bit-identical, {len(metrics(quiet))} lines of metrics equal"
    yield Row("kills", done, status="0" if not wrong else "", wrong=tuple(wrong))


def wrong_with(run: Run, number: signal.Signals, moment: str, workdir: pathlib.Path) -> list[str]:
    wrong = [f"process {pid} runs on" for pid in run.orphans()]
    if number == signal.SIGKILL:
        return wrong + run.check(128 + signal.SIGKILL)
    wrong += run.check(128 + signal.SIGTERM)
    if moment not in ("start-up", "compilation"):
        wrong += run.check(128 + signal.SIGTERM, "stopped by SIGTERM", "saved")
    return list(dict.fromkeys(wrong + [f"took {run.ending:.0f} s to end"] * (run.ending > 30)))


def wait_for(moment: str, run: Run, workdir: pathlib.Path, before: tuple, rng: random.Random) -> None:
    """Returns at a random time within this kind of moment."""
    if moment == "start-up":
        time.sleep(rng.uniform(0.05, 4))
    elif moment == "compilation":
        run.until(lambda: "device(s):" in run.out, "description of the run")
        time.sleep(rng.uniform(0, 1))
    else:
        run.until(lambda: signature(workdir) != before, "line of metrics")  # old lines are not this run's
        start = last_step(workdir)
        run.until_step(workdir, start + 1)
        if moment == "steps":
            run.until_step(workdir, start + rng.randint(1, STEPS_PER_KILL))
            time.sleep(rng.uniform(0, 0.02))
        elif moment == "writing a checkpoint":
            known = names(workdir)
            run.until(lambda: names(workdir) - known, "new checkpoint")
            time.sleep(rng.uniform(0, 0.04))
        else:
            run.until(lambda: evaluates(workdir, every=50), "evaluation")
            time.sleep(rng.uniform(0, 0.1))


def signature(workdir: pathlib.Path) -> tuple:
    """What changes as soon as a run writes to metrics.jsonl."""
    try:
        status = os.stat(workdir / "metrics.jsonl")
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def names(workdir: pathlib.Path) -> set[str]:
    folder = workdir / "checkpoints"
    return set(os.listdir(folder)) if folder.is_dir() else set()


def evaluates(workdir: pathlib.Path, every: int) -> bool:
    """Whether the last line tells of a training step after which an evaluation is due, whose line is still missing."""
    last = next(itertools.islice(reversed(metrics(workdir)), 1), {"step": 1})
    return last["step"] % every == 0 and "train/loss" in last
