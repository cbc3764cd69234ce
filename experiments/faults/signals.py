"""Signals: what was asked to stop saves, says so in one line and exits with 128 + the signal."""

import pathlib
import signal
import time
from collections.abc import Iterator

from drive import Row, Run, Scratch, checkpoints, stopped_by, untouched
from kills import UNCACHED, evaluates

RARELY = "--config.checkpoint.every=1000 steps"  # what is saved is saved because of the signal
SLOW_EVAL = ("--config.evals.batch_size=1",)


def rows(scratch: Scratch) -> Iterator[Row]:
    yield from while_training(scratch)
    yield from before_the_first_step(scratch)
    yield from of_a_continuation(scratch)
    yield from during_evaluation(scratch)
    yield from in_evaluation_alone(scratch)
    yield from after_the_end(scratch)


def while_training(scratch: Scratch) -> Iterator[Row]:
    ways = [(signal.SIGTERM, True, 2), (signal.SIGINT, True, 2), (signal.SIGTERM, False, 0), (signal.SIGINT, False, 1)]
    for number, group, workers in ways[: 1 if scratch.quick else None]:
        workdir = scratch.folder("signalled")
        run = scratch.start(workdir, RARELY, f"--config.data.workers={workers}")
        run.until_step(workdir, 30)
        run.tell(number, group)
        wrong = stopped_by(run.finish(), number, workdir)
        wrong += scratch.continued(workdir, RARELY, "--config.data.workers=1")
        who = "the process group" if group else "the process"
        yield run.row("signals", f"{number.name} to {who} while it trains, {workers} workers; then continued", wrong)


def ended_quickly(run: Run, number: signal.Signals = signal.SIGTERM, *, speaks: bool = True) -> list[str]:
    """What is wrong with the end of a run that had nothing to save.

    `speaks`: whether Python runs our program by then; before, the signal itself ends it.
    """
    wrong = run.check(128 + number, *[f"stopped by {number.name}"] * speaks, lines=1)
    wrong += [f"process {pid} runs on" for pid in run.orphans()]
    return wrong + [f"took {run.ending:.0f} s to end"] * (run.ending > 15)


def before_the_first_step(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("early")
    for seconds in [2.5] if scratch.quick else [0.2, 0.8, 1.5, 2.5, 3.5]:
        run = scratch.start(workdir, "--config.data.workers=2", environment=UNCACHED)
        time.sleep(seconds)
        run.tell(signal.SIGTERM, group=True)
        done = f"SIGTERM to the group {seconds} s after the start"
        yield run.finish().row("signals", done, ended_quickly(run, speaks=seconds > 2))
    for number in (signal.SIGTERM, signal.SIGINT)[: 1 if scratch.quick else 2]:
        run = scratch.start(workdir, environment=UNCACHED)
        run.until(lambda run=run: "device(s):" in run.out, "description of the run")
        time.sleep(0.5)
        run.tell(number, group=True)
        yield run.finish().row("signals", f"{number.name} to the group during compilation", ended_quickly(run, number))
    wrong = scratch.continued(workdir)
    yield Row("signals", "the same command after these: begins and ends as a quiet run", wrong=tuple(wrong))


def of_a_continuation(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.stopped("continuation", 30)
    before = untouched(workdir / "checkpoints")
    for seconds in [2.5] if scratch.quick else [1.0, 2.5, 3.5]:
        run = scratch.start(workdir, environment=UNCACHED)
        time.sleep(seconds)
        run.tell(signal.SIGTERM, group=True)
        run.finish()
        wrong = run.check(128 + signal.SIGTERM, lines=None if "after step" in run.err else 1)
        if "after step" not in run.err and untouched(workdir / "checkpoints") != before:
            wrong.append("the checkpoints are not what they were")
        yield run.row("signals", f"SIGTERM {seconds} s after the start of a continuation", wrong)
        before = untouched(workdir / "checkpoints")
    yield Row("signals", "and the continuation after these", wrong=tuple(scratch.continued(workdir)))


def until_evaluation(run: Run, workdir: pathlib.Path) -> None:
    run.until(lambda: evaluates(workdir, every=50), "evaluation")
    time.sleep(0.1)


def during_evaluation(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("evaluating")
    run = scratch.start(workdir, *SLOW_EVAL, RARELY, "--config.data.workers=1")
    until_evaluation(run, workdir)
    run.tell(signal.SIGTERM, group=True)
    wrong = run.finish().check(128 + signal.SIGTERM, "stopped by SIGTERM after step", "saved")
    wrong += [] if checkpoints(workdir) == [50] else [f"checkpoints {checkpoints(workdir)}, not [50]"]
    wrong += [f"process {pid} runs on" for pid in run.orphans()]
    wrong += scratch.continued(workdir, RARELY, like=SLOW_EVAL)
    yield run.row("signals", "SIGTERM to the group during an evaluation, 1 worker; then continued", wrong)
    if scratch.quick:
        return
    workdir = scratch.folder("twice")
    run = scratch.start(workdir, *SLOW_EVAL)
    until_evaluation(run, workdir)
    run.tell(signal.SIGTERM)
    time.sleep(0.05)
    run.tell(signal.SIGTERM)
    wrong = run.finish().check(128 + signal.SIGTERM)
    wrong += [f"took {run.ending:.0f} s to end"] * (run.ending > 5)
    wrong += [f"process {pid} runs on" for pid in run.orphans()] + scratch.continued(workdir, like=SLOW_EVAL)
    yield run.row("signals", "SIGTERM twice within 50 ms during an evaluation; then continued", wrong)


def in_evaluation_alone(scratch: Scratch) -> Iterator[Row]:
    quiet = scratch.quiet()
    for seconds in [2.5] if scratch.quick else [0.5, 1.5, 2.5]:
        run = scratch.start(quiet, "--mode=eval", *SLOW_EVAL, config="", environment=UNCACHED)
        time.sleep(seconds)
        run.tell(signal.SIGTERM, group=True)
        done = f"SIGTERM {seconds} s after the start of --mode=eval"
        measured = "examples" in run.finish().last  # all is said, and the signal meets the interpreter at its end
        yield run.row("signals", done, ended_quickly(run, speaks=seconds > 2 and not measured))


def after_the_end(scratch: Scratch) -> Iterator[Row]:
    quiet = scratch.quiet()
    before = untouched(quiet)
    run = scratch.train(quiet)
    wrong = run.check(0) + (["the finished run was changed"] if untouched(quiet) != before else [])
    yield run.row("signals", "the same command once more, after the end: status 0, nothing changed", wrong)
