"""A thousand checkpoints with 256 descriptors: the numbers of descriptors and threads stay what they are."""

import pathlib
import resource
from collections.abc import Iterator

from drive import Row, Run, Scratch
from processes import resident

EVERY = 2  # steps


def rows(scratch: Scratch) -> Iterator[Row]:
    count = 100 if scratch.quick else 1000
    workdir = scratch.folder("thousand")
    run = scratch.start(
        workdir,
        f"--config.duration={EVERY * count} steps",
        f"--config.checkpoint.every={EVERY} steps",
        "--config.evals.classification.every=0 steps",
    )
    resource.prlimit(run.pid, resource.RLIMIT_NOFILE, (256, 256))
    run.until_step(workdir, EVERY * count // 10)
    before = usage(run)
    run.until_step(workdir, EVERY * (count - count // 50))
    after = usage(run)
    wrong = run.finish(600).check(0)
    wrong += [
        f"{then} {name} after {count // 10} checkpoints, {now} near the end"
        for name, then, now in zip(("descriptors", "threads"), before, after, strict=False)
        if now > then + 5
    ]
    row = run.row("leaks", f"{count:,} checkpoints under `ulimit -n 256`", wrong)
    words = "{} descriptors, {} threads, {} MB"
    row.said = f"after {count // 10}: {words.format(*before)}; after {count - count // 50}: {words.format(*after)}"
    yield row


def usage(run: Run) -> tuple[int, int, int]:
    """Open descriptors, threads and megabytes of memory."""
    descriptors, threads = (
        sum(1 for _ in pathlib.Path(f"/proc/{run.pid}/{what}").iterdir()) for what in ("fd", "task")
    )
    return descriptors, threads, resident(run.pid) // 2**20
