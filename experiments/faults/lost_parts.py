"""Parts that a run loses: the state is saved first, then one line says which; the same command continues."""

import os
import signal
from collections.abc import Iterator

from drive import REPO, Row, Run, Scratch, checkpoints, last_step

RARELY = "--config.checkpoint.every=1000 steps"
FAULTY = (str(REPO / "experiments/faults/faulty.py"),)


def rows(scratch: Scratch) -> Iterator[Row]:
    yield from killed_workers(scratch)
    yield from failing_sources(scratch)


def saved_first(run: Run, workdir) -> list[str]:
    """What is wrong with the end of a run that lost a part of its own: one line, status 1, every step it told of saved."""
    wrong = run.check(1, "error: ")
    newest = (checkpoints(workdir) or [0])[-1]
    if newest < last_step(workdir):
        wrong.append(f"metrics end at step {last_step(workdir)}, the newest checkpoint is {newest}")
    return wrong + [f"process {pid} runs on" for pid in run.orphans()]


def killed_workers(scratch: Scratch) -> Iterator[Row]:
    for number, workers in [(signal.SIGKILL, 2), (signal.SIGKILL, 1), (signal.SIGBUS, 2)][: 1 if scratch.quick else 3]:
        workdir = scratch.folder("lost")
        run = scratch.start(workdir, RARELY, f"--config.data.workers={workers}")
        run.until_step(workdir, 30)
        os.kill(run.workers()[-1], number)
        wrong = saved_first(run.finish(), workdir) + scratch.continued(
            workdir, RARELY, f"--config.data.workers={workers}"
        )
        yield run.row("lost parts", f"{number.name} to one of {workers} data workers; then continued", wrong)


def failing_sources(scratch: Scratch) -> Iterator[Row]:
    what = {"raise": "a source that raises", "memory": "no more memory to read a picture into"}
    for fault, workers in [("raise", 0), ("raise", 2), ("memory", 2)][: 1 if scratch.quick else 3]:
        workdir, flag = scratch.folder("failing"), scratch.root / "fault"
        flag.unlink(missing_ok=True)
        environment = {"FAULT_FILE": str(flag), "FAULT": fault}
        run = scratch.start(
            workdir, RARELY, f"--config.data.workers={workers}", program=FAULTY, environment=environment
        )
        run.until_step(workdir, 30)
        flag.touch()
        wrong = saved_first(run.finish(), workdir) + scratch.continued(workdir, RARELY)
        yield run.row("lost parts", f"{what[fault]}, {workers} workers; then continued without the fault", wrong)
