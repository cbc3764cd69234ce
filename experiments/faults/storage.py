"""Storage that is full, read-only, forbidden or none: one line, nothing that was safe is lost."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator

from drive import Row, Scratch, checkpoints


class Unavailable(Exception):
    """This machine does not let the harness arrange a fault."""


def rows(scratch: Scratch) -> Iterator[Row]:
    for scenario in (
        full_disk,
        too_small,
        read_only,
        frozen_folder,
        forbidden,
        no_folder_there,
        no_accelerator,
        buckets,
    ):
        try:
            yield from scenario(scratch)
        except Unavailable as problem:
            yield Row("storage", scenario.__name__.replace("_", " "), skipped=str(problem))


def arrange(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{command[0]} is not possible here: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(path: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    path.mkdir(exist_ok=True)
    try:
        arrange("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)
    except FileNotFoundError as problem:
        raise Unavailable("there is no mount command") from problem
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=False)


def fill(path: pathlib.Path) -> None:
    """Takes all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def full_disk(scratch: Scratch) -> Iterator[Row]:
    with small_disk(scratch.root / "disk", "40m") as disk:
        workdir, ballast = disk / "run", disk / "ballast"
        run = scratch.start(workdir)
        run.until_step(workdir, 45)
        fill(ballast)
        wrong = run.finish().check(1, "error: ", "space")
        wrong += [] if checkpoints(workdir) else ["no checkpoint is left"]
        yield run.row("storage", "the disk fills up while it trains", wrong)
        again = scratch.train(workdir)
        yield again.row("storage", "the same command while it is still full", again.check((1, 2), "error: ", lines=1))
        ballast.unlink()
        yield Row("storage", "and after space was made: ends as the quiet run", wrong=tuple(scratch.continued(workdir)))


def too_small(scratch: Scratch) -> Iterator[Row]:
    with small_disk(scratch.root / "disk", "128k") as disk:
        run = scratch.train(disk / "run")
        wrong = run.check(2, "error: ", "free", lines=1)
        wrong += ["it began to train"] * (disk / "run" / "metrics.jsonl").exists()
        yield run.row("storage", "a disk of 128 kB, too small for the first checkpoints", wrong)


def read_only(scratch: Scratch) -> Iterator[Row]:
    with small_disk(scratch.root / "disk", "40m") as disk:
        workdir = disk / "run"
        first = scratch.start(workdir)
        first.until_step(workdir, 30)
        first.tell(signal.SIGTERM)
        first.finish()
        arrange("mount", "-o", "remount,ro", disk)
        for path, what in ((workdir, "the work folder of a run"), (disk / "new", "a new work folder")):
            run = scratch.train(path)
            yield run.row("storage", f"{what} on a read-only disk", run.check(2, "error: ", str(path), lines=1))
        reader = scratch.train(workdir, "--mode=eval", config="")
        yield reader.row("storage", "--mode=eval in that work folder", reader.check(0))
        arrange("mount", "-o", "remount,rw", disk)
        yield Row("storage", "and after it is writable again", wrong=tuple(scratch.continued(workdir)))


def frozen_folder(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("frozen")
    run = scratch.start(workdir)
    run.until_step(workdir, 45)
    try:
        arrange("chattr", "+i", workdir / "checkpoints")
        wrong = run.finish().check(1, "error: ")
    finally:
        run.kill()
        subprocess.run(["chattr", "-i", workdir / "checkpoints"], check=False)
    wrong += [] if checkpoints(workdir) else ["no checkpoint is left"]
    wrong += scratch.continued(workdir)
    yield run.row("storage", "the checkpoints' folder turns unwritable while it trains; then continued", wrong)


def forbidden(scratch: Scratch) -> Iterator[Row]:
    """As root without root's right to pass over permissions: another user would not get at Python itself everywhere."""
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if os.getuid() or not shutil.which("setpriv"):
        raise Unavailable("needs root, and setpriv of util-linux")
    closed, theirs = scratch.folder("closed"), scratch.folder("theirs")
    closed.mkdir(mode=0o700)
    first = scratch.start(theirs)
    first.until_step(theirs, 30)
    first.tell(signal.SIGTERM)
    first.finish()
    for path in (closed, theirs, *theirs.rglob("*")):
        os.chown(path, 12345, 12345)
    for path, what in ((closed / "run", "below a folder of another user"), (theirs, "of another user's run")):
        run = scratch.train(path, prefix=bound)
        yield run.row("storage", f"a work folder {what}", run.check(2, "error: ", str(path), lines=1))


def no_folder_there(scratch: Scratch) -> Iterator[Row]:
    file = scratch.root / "file"
    file.write_text("")
    for path in (file, file / "run"):
        run = scratch.train(path)
        yield run.row(
            "storage",
            f"--workdir={path.relative_to(scratch.root)}, where file is a file",
            run.check(2, "error: ", lines=1),
        )


def no_accelerator(scratch: Scratch) -> Iterator[Row]:
    for platform in ("cuda", "cuda,tpu", "quantum")[: 1 if scratch.quick else 3]:
        workdir = scratch.folder("accelerated")
        run = scratch.train(workdir, environment={"JAX_PLATFORMS": platform})
        wrong = run.check(2, "error: ", platform.split(",")[0], lines=1) + ["something was written"] * workdir.exists()
        yield run.row("storage", f"JAX_PLATFORMS={platform} without such a device", wrong)


def buckets(scratch: Scratch) -> Iterator[Row]:
    for address in ("gs://bucket/run", "s3://bucket/run"):
        run = scratch.train(address)
        wrong = run.check(2, "error: ", address, lines=1, within=30) + ["it began"] * ("device(s):" in run.out)
        yield run.row("storage", f"--workdir={address}", wrong)
