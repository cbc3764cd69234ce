"""Checkpoints of a run: asynchronous, sharded, checked on restore, restorable on another mesh.

Orbax writes and commits them; this module decides which to keep, finds the newest intact one, and checks that what was
read is what was written (Orbax has no checksum of its own: it restores a flipped byte silently).
"""

import contextlib
import itertools
import json
import logging
import math
import pathlib
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.models.stacking import path_name
from vision_jax.training.distributed import any_process, from_first, wait_for_all
from vision_jax.training.orbax_noise import settle, without_orbax_noise
from vision_jax.weights.work_folder import (
    DamagedCheckpoint,
    checkpoint_steps,
    checksums,
    first_line,
    load_variables,
    waiting_for_none,
)

log = logging.getLogger(__name__)
BESIDE = "beside"  # the entry of a checkpoint's metadata for state that is not an array


class Checkpoints:
    """The checkpoints of one run, in `folder`/<step>. Keeps the newest `keep` and the best.

    values: step -> the metric that decides which is best (`metric_values`), for all evaluations so far; a checkpoint is
    often written before its evaluation, so it holds no metric itself.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        keep: int = 2,
        best: str = "",
        best_mode: str = "max",
        verify: bool = True,
        values: dict[int, float] | None = None,
    ):
        self.folder = pathlib.Path(folder).absolute()
        self.keep, self.best, self.verify = max(keep, 1), best, verify
        self.sign = 1 if best_mode == "max" else -1
        self.values = dict(values or {})
        self.beside: dict[str, Any] = {}  # what was saved beside the restored state
        self.last = -1  # the newest step that is saved or being saved
        self.writing: tuple[int, Any] | None = None  # a step and Orbax's future for it
        self._orbax = None
        self._quiet = contextlib.ExitStack()  # from the first read or write until it is closed

    def steps(self) -> list[int]:
        """Steps of all checkpoints in the folder, intact or damaged."""
        return checkpoint_steps(self.folder)

    def best_step(self, steps: Iterable[int]) -> int | None:
        """The step with the best value among `steps`, the earliest of equals; None if none has been evaluated."""
        known = [step for step in steps if step in self.values]
        return max(known, key=lambda step: (self.sign * self.values[step], -step), default=None)

    def best_so_far(self) -> dict[str, Any] | None:
        """The deciding metric with its best value and step, among the checkpoints that are kept."""
        step = self.best_step(self.steps())
        return None if step is None else {"metric": self.best, "value": self.values[step], "step": step}

    def evaluated(self, step: int, metrics: dict[str, float]) -> bool:
        """Records an evaluation; returns whether this step is the best so far, as process 0 judges."""
        value = metrics.get(self.best)
        if value is None or not math.isfinite(value):
            return False
        before = self.best_step({*self.steps(), self.last} - {step})
        self.values[step] = value
        return bool(from_first(before is None or self.sign * value > self.sign * self.values[before]))

    def save(self, step: int, state: Any, beside: dict[str, Any] | None = None) -> None:
        """Starts saving the state in the background; it may be donated at once. A step already saved is left alone.

        beside: state that is not an array, as JSON, such as sums that are not reported yet.
        Raises RunError if this checkpoint, or the one before, cannot be written.
        """
        if step <= self.last:
            return
        self.wait()
        beside = beside or {}
        about = {"checksums": checksums(state) | {BESIDE: _checksum(beside)}, BESIDE: beside}
        with self._told(step):
            answer = self._checkpointer().save_async(step, state, force=True, custom_metadata=about)
        self.writing, self.last = (step, answer), step

    def wait(self) -> None:
        """Returns when everything is written. Raises RunError if it could not be."""
        if self.writing:
            (step, answer), self.writing = self.writing, None
            with self._told(step):
                answer.result()  # not orbax.wait(): until its result is read, a future holds a thread and file descriptors

    def close(self) -> None:
        with self._quiet:
            self.wait()
            if self._orbax:
                self._orbax.close()
                self._orbax = None

    def restore(self, abstract_state: Any, restart: bool = False) -> Any | None:
        """The newest intact state, placed as the `sharding`s of `abstract_state` say; None if there is none.

        A damaged checkpoint is reported, skipped and renamed to `damaged-<step>`. Raises ConfigError if there are
        checkpoints but none can be used: all are damaged, or of another model or optimizer. With `restart` these are
        renamed, too. A checkpoint that one process cannot read is used by none.
        """
        self._silence_orbax()
        older, problems = self.steps(), []
        while (step := from_first(older.pop() if older else -1)) >= 0:
            try:
                state, beside = self._read(step, abstract_state)
            except (DamagedCheckpoint, OtherStructure) as error:
                problems.append((step, error))
                continue
            self._set_aside(problems)
            self.last, self.beside = step, beside
            return state
        if problems and not restart:
            raise self._none_whole(problems)
        self._set_aside(problems)
        return None

    def check_space(self, abstract_state: Any) -> None:
        """Raises ConfigError unless the disk has room for as many checkpoints as the run holds at once."""
        bytes_each = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state))
        held = self.keep + bool(self.best) + 1  # a new one is written before an old one is deleted
        missing = max(held - len(self.steps()), 1)
        free = shutil.disk_usage(self.folder.parent).free
        if free < missing * bytes_each:
            raise ConfigError(
                f"{self.folder.parent} has {_size(free)} free, and this run needs about {_size(missing * bytes_each)}:"
                f" {missing} checkpoints of {_size(bytes_each)}; free some, take another --workdir or lower checkpoint.keep"
            )

    def _checkpointer(self) -> Any:
        # Created late, so that damaged checkpoints are renamed before Orbax looks at the folder.
        if self._orbax is None:
            self._silence_orbax()
            self._orbax = ocp.training.Checkpointer(
                self.folder, preservation_policy=_Keep(self), cleanup_tmp_directories=True
            )
        return self._orbax

    def _silence_orbax(self) -> None:
        """Lasts until `close`: what a failure interrupts may end much later."""
        self._quiet.close()
        self._quiet.enter_context(without_orbax_noise())

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            settle()
            whole = [known for known in self.steps() if known < step]
            safe = f"that of step {whole[-1]} is safe" if whole else "there is none before it"
            self.last, self._orbax = max(whole, default=-1), None  # drops whatever Orbax had begun
            raise RunError(
                f"the checkpoint of step {step} cannot be written to {self.folder}: {_reason(error)}; {safe}, and"
                " the same command continues once it can be"
            ) from error

    def _read(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
        folder = self.folder / str(step)
        with whole_everywhere(), waiting_for_none():
            metadata = ocp.metadata(folder)
            saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(metadata.metadata)}
            beside = dict(metadata.custom_metadata.get(BESIDE, {}))  # missing in checkpoints of old versions
            expected_sums = {BESIDE: _checksum({})} | dict(metadata.custom_metadata["checksums"])
        check_structure(f"checkpoint {step} in {self.folder}", saved, abstract_state)
        with whole_everywhere(), waiting_for_none():
            state = ocp.load(folder, abstract_state)
        if self.verify:
            sums = checksums(state) | {BESIDE: _checksum(beside)}
            wrong = [name for name, value in sums.items() if value != expected_sums.get(name)]
            if wrong:
                raise DamagedCheckpoint(f"{wrong[0]} does not have the checksum it was saved with")
        if int(state.step) != step:
            raise DamagedCheckpoint(f"it holds step {int(state.step)}")
        return state, beside

    def _set_aside(self, problems: list[tuple[int, Exception]]) -> None:
        for step, error in problems:
            log.warning("checkpoint %d is damaged (%s): passed over, and set aside as damaged-%d", step, error, step)
            if jax.process_index() == 0:
                names = itertools.chain([f"damaged-{step}"], (f"damaged-{step}-{i}" for i in itertools.count(2)))
                free = next(name for name in names if not (self.folder / name).exists())
                (self.folder / str(step)).rename(self.folder / free)
        if problems:
            wait_for_all("set aside")

    def _none_whole(self, problems: list[tuple[int, Exception]]) -> ConfigError:
        for _, error in problems:
            if isinstance(error, OtherStructure):
                return error
        reasons = "; ".join(f"{step}: {error}" for step, error in problems[:3])
        return ConfigError(
            f"every checkpoint in {self.folder} is damaged ({reasons}): put back a copy of one, or begin again from step 0"
            " with --accept=restart, which sets them aside"
        )


class _Keep:
    """Orbax's preservation policy: the newest checkpoints, and the best of those evaluated."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self.checkpoints.keep :], self.checkpoints.best_step(steps)}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class OtherStructure(ConfigError):
    """A checkpoint of another model or optimizer."""


@contextlib.contextmanager
def whole_everywhere() -> Iterator[None]:
    """Raises DamagedCheckpoint in every process if reading fails in one, for any error that Orbax raises on a torn file."""
    problem = None
    try:
        yield
    except Stopped:
        settle()
        raise
    except Exception as error:
        problem = first_line(error)  # not the error itself: its frames keep Orbax's unfinished reads alive
    if problem:
        settle()
    if any_process(problem is not None):
        raise DamagedCheckpoint(problem or "another process cannot read it")


def read_variables(folder: pathlib.Path, expected: Any, sharding: Any) -> Any:
    """The variables of a checkpoint that evaluation uses. Raises OtherStructure if they are not shaped as `expected`."""
    variables = load_variables(folder, sharding)
    saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    check_structure(str(folder), saved, expected)
    return variables


def check_structure(what: str, saved: dict[str, Any], abstract_state: Any) -> None:
    """Raises OtherStructure if the arrays in a checkpoint differ from the state's in name or shape."""
    wanted = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state)}
    for name, leaf in wanted.items():
        if name not in saved:
            raise OtherStructure(f"{what} has no '{name}', which this config's model or optimizer has")
        if tuple(saved[name].shape) != tuple(leaf.shape) or saved[name].dtype != leaf.dtype:
            raise OtherStructure(
                f"{what} holds '{name}' as {saved[name].dtype}{list(saved[name].shape)}, this config needs {leaf.dtype}{list(leaf.shape)}"
            )
    if extra := saved.keys() - wanted.keys():
        raise OtherStructure(f"{what} holds '{min(extra)}', which this config's model or optimizer does not have")


def _checksum(beside: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(beside, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    """The operating system's message if an Orbax error contains one, else the error's first line."""
    text = str(error)
    known = ("No space left on device", "Disk quota exceeded", "Read-only file system", "Permission denied")
    return next((words for words in known if words in text), first_line(error))


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
