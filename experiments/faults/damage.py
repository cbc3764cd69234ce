"""Damage to every file of a checkpoint: what is damaged is passed over, loudly, and the bits are those of an older one."""

import contextlib
import gc
import io
import logging
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from drive import REPO, Row, Scratch, Unexpected, bits, checkpoints

KINDS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "halved": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "one byte flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :]
    ),
}


def rows(scratch: Scratch) -> Iterator[Row]:
    yield from restored_in_one_process(scratch)
    yield from through_the_command(scratch)


def damage(path: pathlib.Path, kind: str) -> None:
    """Anew, since other work folders may share the file."""
    damaged = KINDS[kind](path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)


def files_of(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


class Restoring:
    """Restores copies of a run's checkpoints, as often as wanted, in this process."""

    def __init__(self, scratch: Scratch):
        import jax

        from vision_jax.command_line import load_config
        from vision_jax.training.setup import prepare

        self.original, self.work = scratch.quiet() / "checkpoints", scratch.root / "restoring"
        self.steps = checkpoints(self.original.parent)
        config = load_config(str(REPO / "experiments/faults/tiny.py"))
        self.setup = prepare(config, devices=jax.devices()[:1])
        self.states = {
            step: sorted(value for *_, value in bits(self.original / str(step)).values()) for step in self.steps
        }

    def fresh(self) -> pathlib.Path:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.original, self.work)
        return self.work

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        import jax

        from vision_jax.training.checkpoints import Checkpoints

        with jax.set_mesh(self.setup.mesh), contextlib.closing(Checkpoints(self.work)) as opened:
            yield opened

    def attempt(self, expected: int) -> str:
        """In a few words what restoring gives; raises Unexpected where it is not the state of a step, or silently older."""
        import jax
        import numpy as np

        with heard() as said, self.opened() as opened:
            state = opened.restore(self.setup.abstract_state)
        if state is None:
            raise Unexpected("begins anew at step 0")
        step = int(state.step)
        if sorted(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)) != self.states[step]:
            raise Unexpected(f"other bits at step {step}")
        if step != self.steps[-1] and "damaged" not in said.getvalue():
            raise Unexpected(f"passes over to step {step} without a word")
        if step < expected:
            raise Unexpected(f"goes back to step {step}, past {expected}")
        self.save(step + 5, state)
        return "passed over" if step != self.steps[-1] else "read whole, same bits"

    def save(self, step: int, state: Any) -> None:
        """As the run that goes on does, which decides by then which of the checkpoints may go."""
        with self.opened() as opened:
            opened.save(step, state.replace(step=state.step * 0 + step))
            opened.wait()


@contextlib.contextmanager
def heard() -> Iterator[io.StringIO]:
    """What is logged and written to stderr inside, which is then not seen."""
    text, root = io.StringIO(), logging.getLogger()
    before, root.handlers = root.handlers, [logging.StreamHandler(text)]
    try:
        with contextlib.redirect_stderr(text):
            yield text
            gc.collect()  # asyncio tells of Orbax's unfinished reads only once they are collected
    finally:
        root.handlers = before


def outcome(attempt: Callable[[], str]) -> tuple[str, list[str]]:
    """What an attempt gave, and what is wrong with it; any exception is."""
    try:
        return attempt(), []
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem}".splitlines()[0][:150].removeprefix("Unexpected: ")
        return text, [text]


def row_of(done: str, attempts: dict[str, Callable[[], str]]) -> Row:
    """One line of several attempts: what came of those that went as promised, and what was wrong with the others."""
    began = time.monotonic()
    outcomes = {name: outcome(attempt) for name, attempt in attempts.items()}
    good: dict[str, list[str]] = {}
    for name, (text, wrong) in outcomes.items():
        if not wrong:
            good.setdefault(text, []).append(name)
    said = "; ".join(f"{', '.join(names) if len(names) < 8 else len(names)}: {text}" for text, names in good.items())
    wrong = tuple(f"{name}: {text}" for name, (_, problems) in outcomes.items() for text in problems)
    return Row("damage", done, said, seconds=time.monotonic() - began, wrong=wrong)


def restored_in_one_process(scratch: Scratch) -> Iterator[Row]:
    restoring = Restoring(scratch)
    newest, older = restoring.steps[-1], restoring.steps[-2]

    def damaged(step: int, file: pathlib.Path, kind: str, expected: int) -> str:
        damage(restoring.fresh() / str(step) / file, kind)
        return restoring.attempt(expected)

    def without(folder: pathlib.Path) -> str:
        shutil.rmtree(restoring.fresh() / str(newest) / folder)
        return restoring.attempt(older)

    for file in files_of(restoring.original / str(newest)):
        attempts = {kind: lambda file=file, kind=kind: damaged(newest, file, kind, older) for kind in KINDS}
        yield row_of(f"of the newest checkpoint: {shortened(file)}", attempts)
    folders = sorted(path for path in (restoring.original / str(newest)).rglob("*") if path.is_dir())
    parts = [path.relative_to(restoring.original / str(newest)) for path in folders]
    attempts = {f"{shortened(part)}/": lambda part=part: without(part) for part in parts}
    yield row_of("folders of the newest checkpoint that are missing", attempts)
    for step in restoring.steps[:-1]:
        attempts = {
            f"{shortened(file)} {kind}": lambda file=file, kind=kind, step=step: damaged(step, file, kind, newest)
            for file in files_of(restoring.original / str(step))
            for kind in ("missing", "one byte flipped")
        }
        yield row_of(f"of the older checkpoint {step}, and the newest is read", attempts)
    attempts = {
        str(n): lambda n=n: at_random(restoring, f"{scratch.seed} {n}") for n in range(10 if scratch.quick else 100)
    }
    yield row_of("of the newest checkpoint: one bit flipped, or a file cut, at a random place", attempts)
    yield row_of("the newest, saved again and damaged again", {"twice": lambda: twice(restoring)})


def shortened(path: pathlib.Path) -> str:
    """Without the random letters of data files' names."""
    return str(path.with_name(f"{path.name[:6]}...") if len(path.name) == 32 else path)


def at_random(restoring: Restoring, seed: str) -> str:
    rng, newest = random.Random(seed), restoring.fresh() / str(restoring.steps[-1])
    path = newest / rng.choice([file for file in files_of(newest) if size(newest / file)])
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.7:
        data[place] ^= 1 << rng.randrange(8)
    else:
        del data[place:]
    path.write_bytes(data)
    return restoring.attempt(restoring.steps[-2])


def twice(restoring: Restoring) -> str:
    newest, older = restoring.steps[-1], restoring.steps[-2]
    restoring.fresh()
    with restoring.opened() as opened:
        state = opened.restore(restoring.setup.abstract_state)
    for _ in range(2):
        largest = max((path for path in (restoring.work / str(newest)).rglob("*") if path.is_file()), key=size)
        damage(largest, "one byte flipped")
        restoring.attempt(older)
        shutil.rmtree(restoring.work / str(older + 5))
        restoring.save(newest, state)
    aside = sorted(path.name for path in restoring.work.glob(f"damaged-{newest}*"))
    if len(aside) != 2:
        raise Unexpected(f"set aside: {', '.join(aside) or 'nothing'}")
    return restoring.attempt(newest) + f" after two were set aside as {', '.join(aside)}"


def size(path: pathlib.Path) -> int:
    return path.stat().st_size


def through_the_command(scratch: Scratch) -> Iterator[Row]:
    stopped = scratch.stopped("stopped", 65)
    newest = checkpoints(stopped)[-1]
    files = files_of(stopped / "checkpoints" / str(newest))
    workdir = scratch.root / "damaged"
    kinds = list(KINDS)[: 1 if scratch.quick else None]
    for index, kind in enumerate(kinds):
        file = files[index * (len(files) - 1) // max(len(kinds) - 1, 1)]
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(stopped, workdir)
        damage(workdir / "checkpoints" / str(newest) / file, kind)
        run = scratch.train(workdir)
        wrong = run.check(0) or scratch.same(workdir)
        if "damaged" not in run.err and list((workdir / "checkpoints").glob("damaged*")):
            wrong.append("passed over without a word")
        said = next((line for line in run.err.splitlines() if "damaged" in line), "")
        row = run.row("damage", f"{shortened(file)} of checkpoint {newest} {kind}; the same command", wrong)
        row.said = said or row.said
        yield row
    yield from all_damaged(scratch, stopped)


def all_damaged(scratch: Scratch, stopped: pathlib.Path) -> Iterator[Row]:
    workdir = scratch.root / "damaged"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(stopped, workdir)
    for step in checkpoints(workdir):
        for file in files_of(workdir / "checkpoints" / str(step)):
            damage(workdir / "checkpoints" / str(step) / file, "halved")
    for again in ("", ", once more"):
        run = scratch.train(workdir)
        wrong = run.check(2, "error: ", "--accept=restart")
        yield run.row("damage", f"every file of every checkpoint halved{again}", wrong)
    yield Row(
        "damage",
        "and --accept=restart: begins at step 0, ends as the quiet run",
        wrong=tuple(scratch.continued(workdir, "--accept=restart")),
    )
