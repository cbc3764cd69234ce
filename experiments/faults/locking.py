"""One work folder has one writer."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator

from drive import Row, Run, Scratch

LONGER = ("--config.duration=1500 steps",)  # as long as sixty kills need it, too


def rows(scratch: Scratch) -> Iterator[Row]:
    yield from second_starts(scratch)
    yield from owners_that_are_gone(scratch)
    yield from at_the_same_moment(scratch)
    yield from on_another_machine(scratch)


def refused(second: Run, first: Run) -> list[str]:
    """What is wrong with how a second start ended beside the first: at once, in one line that names the first."""
    wrong = second.check(2, "error: ", str(first.pid), socket.gethostname(), lines=1, within=60)
    wrong += [] if re.search(r"\d\d:\d\d", second.last) else ["its last line lacks the time of the first start"]
    return wrong + ["it began before it was refused"] * ("device(s):" in second.out)


def second_starts(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("locked")
    first = scratch.start(workdir, *LONGER, "--config.checkpoint.keep=1000")  # none goes while it is evaluated
    first.until_step(workdir, 20)
    wrong = [] if (workdir / "lock").exists() else ["no lock while it runs"]
    second = scratch.train(workdir, *LONGER)
    yield second.row("one writer", "a second start in the same work folder", wrong, refused(second, first))
    first.tell(signal.SIGSTOP)
    second = scratch.train(workdir, *LONGER)
    first.tell(signal.SIGCONT)
    yield second.row("one writer", "a second start while the first is suspended (SIGSTOP)", refused(second, first))
    reader = scratch.train(workdir, "--mode=eval", config="")
    yield reader.row("one writer", "--mode=eval beside a run that trains", reader.check(0))
    wrong = [] if first.alive() else [f"the first ended: {first.last}"]
    first.tell(signal.SIGTERM)
    wrong += first.finish().check(128 + signal.SIGTERM, "saved") + scratch.continued(workdir, like=LONGER)
    yield first.row("one writer", "the first after these: goes on, is stopped, continues to the quiet run's end", wrong)


def owners_that_are_gone(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("abandoned")
    first = scratch.start(workdir, "--config.data.workers=1")
    first.until_step(workdir, 30)
    first.tell(signal.SIGKILL)
    first.finish()
    yield first.row(
        "one writer", "kill -9 of the first; the next start takes the lock over", scratch.continued(workdir)
    )
    for content in ("", "{"):
        workdir = scratch.folder("torn")
        workdir.mkdir()
        (workdir / "lock").write_text(content)
        run = scratch.train(workdir)
        done = f"a lock of {len(content)} bytes, as a crash may leave it"
        yield run.row("one writer", done, run.check(0) or scratch.same(workdir))


def at_the_same_moment(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("together")
    runs = [scratch.start(workdir) for _ in range(3)]
    ends = sorted(run.finish().status for run in runs)
    wrong = [] if ends == ["0", "2", "2"] else [f"exit statuses {', '.join(ends)}, not 0, 2, 2"]
    loser = next((run for run in runs if run.status != "0"), runs[0])
    wrong += loser.check(2, "error: ", lines=1) + scratch.same(workdir)
    yield loser.row("one writer", "three starts at the same moment: one trains", wrong)


def on_another_machine(scratch: Scratch) -> Iterator[Row]:
    """As on a file system that carries no kernel's lock: all that is seen of the owner is its file, and signs of life."""
    template = scratch.folder("template")
    run = scratch.start(template)
    run.until_step(template, 5)
    owner = json.loads((template / "lock").read_text()) | {"host": "elsewhere", "boot": "another"}
    run.kill()
    for lives in [True] if scratch.quick else [True, False]:
        workdir = scratch.folder("shared")
        workdir.mkdir()
        lock = workdir / "lock"
        lock.write_text(json.dumps(owner))
        run = scratch.start(workdir)
        while lives and run.alive() and lock.exists():
            os.utime(lock)
            time.sleep(0.5)
        if lives:
            wrong = run.finish().check(2, "error: ", "elsewhere", str(owner["process"]))
            yield run.row("one writer", "a lock of another machine that shows signs of life", wrong)
        else:
            wrong = run.finish().check(0) or scratch.same(workdir)
            yield run.row("one writer", "a lock of another machine that shows none: taken over", wrong)
