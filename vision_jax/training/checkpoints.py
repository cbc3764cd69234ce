"""Checkpoints of a run: asynchronous, sharded, checked on restore, restorable on another mesh.

Orbax writes and commits them; this module decides which are kept, which is the newest that is whole, and whether what
was read is what was written (Orbax has no checksum of its own: a flipped byte restores without a word).
"""

import contextlib
import logging
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vision_jax.errors import ConfigError
from vision_jax.models.stacking import path_name
from vision_jax.training.distributed import any_process, from_first, wait_for_all
from vision_jax.weights.work_folder import DamagedCheckpoint, checksums, first_line, waiting_for_none

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `folder`/<step>. Keeps the newest `keep` and the best by `best` (a metric's name)."""

    def __init__(
        self, folder: pathlib.Path, *, keep: int = 2, best: str = "", best_mode: str = "max", verify: bool = True
    ):
        policies = ocp.training.preservation_policies
        rules: list = [policies.LatestN(max(keep, 1))]
        if best:
            sign = 1 if best_mode == "max" else -1
            rules.append(
                policies.BestN(get_metric_fn=lambda m: sign * m[best], n=1, keep_checkpoints_without_metrics=False)
            )
        self.best, self.best_mode, self.verify = best, best_mode, verify
        self.orbax = ocp.training.Checkpointer(
            pathlib.Path(folder).absolute(),
            preservation_policy=policies.AnyPreservationPolicy(rules),
            cleanup_tmp_directories=True,
        )

    def steps(self) -> list[int]:
        return sorted(checkpoint.step for checkpoint in self.orbax.checkpoints)

    def best_value(self) -> float | None:
        """The best value so far of the metric that decides, or None."""
        values = [c.metrics[self.best] for c in self.orbax.checkpoints if c.metrics and self.best in c.metrics]
        return (max if self.best_mode == "max" else min)(values, default=None)

    def improves(self, metrics: dict[str, float]) -> bool:
        """Whether these metrics would make the best checkpoint so far, in process 0's eyes."""
        value, best = metrics.get(self.best), self.best_value()
        if value is None or not math.isfinite(value):
            return False
        return bool(from_first(best is None or (value > best if self.best_mode == "max" else value < best)))

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts saving the state in the background; it may be donated at once. A step already saved is left alone."""
        if step in self.steps():
            return
        value = (metrics or {}).get(self.best, math.nan)
        self.orbax.save_async(
            step,
            state,
            force=True,
            metrics={self.best: value} if math.isfinite(value) else None,
            custom_metadata={"checksums": checksums(state)},
        )

    def restore(self, abstract_state: Any) -> Any | None:
        """The newest state that is whole, placed as the `sharding`s of `abstract_state` say; None if there is none.

        A damaged checkpoint is passed over loudly and set aside as `damaged-<step>`. One of another structure raises
        ConfigError: that is another model or optimizer, which no older checkpoint would mend. What one process cannot
        read, none uses.
        """
        while (step := from_first(max(self.steps(), default=-1))) >= 0:
            try:
                return self._read(step, abstract_state)
            except DamagedCheckpoint as error:
                log.warning("checkpoint %d is damaged (%s): passing over it to an older one", step, error)
                folder = pathlib.Path(self.orbax.directory)
                if jax.process_index() == 0:
                    (folder / str(step)).rename(folder / f"damaged-{step}")
                wait_for_all("set aside")
                self.orbax.reload()
        return None

    def _read(self, step: int, abstract_state: Any) -> Any:
        folder = pathlib.Path(self.orbax.directory) / str(step)
        with whole_everywhere(), waiting_for_none():
            metadata = ocp.metadata(folder)
            saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(metadata.metadata)}
            expected_sums = metadata.custom_metadata["checksums"]
        check_structure(f"checkpoint {step} in {folder.parent}", saved, abstract_state)
        with whole_everywhere(), waiting_for_none():
            state = ocp.load(folder, abstract_state)
        if self.verify:
            wrong = [name for name, value in checksums(state).items() if value != expected_sums.get(name)]
            if wrong:
                raise DamagedCheckpoint(f"{wrong[0]} does not have the checksum it was saved with")
        return state

    def wait(self) -> None:
        """Returns when everything is written; raises what failed in the background."""
        self.orbax.wait()

    def close(self) -> None:
        self.orbax.close()


@contextlib.contextmanager
def whole_everywhere() -> Iterator[None]:
    """Raises DamagedCheckpoint in every process where reading fails in one, of whatever Orbax meets in a torn file."""
    problem = None
    try:
        yield
    except Exception as error:
        problem = error
    if any_process(problem is not None):
        raise DamagedCheckpoint(first_line(problem) if problem else "another process cannot read it") from problem


def check_structure(what: str, saved: dict[str, Any], abstract_state: Any) -> None:
    """Raises ConfigError where the arrays named in a checkpoint differ from the state's in name or shape."""
    wanted = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state)}
    for name, leaf in wanted.items():
        if name not in saved:
            raise ConfigError(f"{what} has no '{name}', which this config's model or optimizer has")
        if tuple(saved[name].shape) != tuple(leaf.shape) or saved[name].dtype != leaf.dtype:
            raise ConfigError(
                f"{what} holds '{name}' as {saved[name].dtype}{list(saved[name].shape)}, this config needs {leaf.dtype}{list(leaf.shape)}"
            )
    if extra := saved.keys() - wanted.keys():
        raise ConfigError(f"{what} holds '{min(extra)}', which this config's model or optimizer does not have")
