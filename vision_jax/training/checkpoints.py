"""Checkpoints of a run: asynchronous, sharded, checked on restore, restorable on another mesh.

Orbax writes and commits them; this module decides which are kept, which is the newest that is whole, and whether what
was read is what was written (Orbax has no checksum of its own: a flipped byte restores without a word).
"""

import json
import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from vision_jax.errors import ConfigError
from vision_jax.training.partitioning import path_name

log = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read back as it was written."""


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
        """Whether these metrics would make the best checkpoint so far."""
        value, best = metrics.get(self.best), self.best_value()
        if value is None or not math.isfinite(value):
            return False
        return best is None or (value > best if self.best_mode == "max" else value < best)

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
        ConfigError: that is another model or optimizer, which no older checkpoint would mend.
        """
        for step in reversed(self.steps()):
            try:
                return self._read(step, abstract_state)
            except DamagedCheckpoint as error:
                log.warning("checkpoint %d is damaged (%s): passing over it to an older one", step, error)
                folder = pathlib.Path(self.orbax.directory)
                if jax.process_index() == 0:
                    (folder / str(step)).rename(folder / f"damaged-{step}")
                self.orbax.reload()
        return None

    def _read(self, step: int, abstract_state: Any) -> Any:
        try:
            metadata = self.orbax.metadata(step)
            saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(metadata.metadata)}
            expected_sums = metadata.custom_metadata["checksums"]
        except Exception as error:  # whatever Orbax meets in a torn file
            raise DamagedCheckpoint(_first_line(error)) from error
        check_structure(f"checkpoint {step} in {self.orbax.directory}", saved, abstract_state)
        try:
            state = self.orbax.load(step, abstract_state)
        except Exception as error:
            raise DamagedCheckpoint(_first_line(error)) from error
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


def checksums(tree: Any) -> dict[str, int]:
    """Path -> 32-bit checksum of every array, the same on any mesh."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_checksum_leaves([leaf for _, leaf in leaves]))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


@jax.jit
def _checksum_leaves(leaves: list) -> list:
    def one(x):
        bits = x.astype(jnp.uint8) if x.dtype == bool else x
        size = bits.dtype.itemsize
        bits = jax.lax.bitcast_convert_type(bits, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]).astype(jnp.uint32)
        index = jnp.zeros(bits.shape, jnp.uint32)
        for axis, length in enumerate(bits.shape):
            index = index * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        # Odd weights are invertible modulo 2**32, so that no change of a single element goes unseen; integer addition
        # is associative, so that the sum does not depend on the mesh.
        return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


def locate(source: str | pathlib.Path, which: str = "last") -> pathlib.Path:
    """The folder of one checkpoint: `source` is a work folder, its `checkpoints`, or a checkpoint itself.

    `which` is "last", "best" (by the metric saved with the checkpoints) or a step, and counts unless `source` is a
    checkpoint itself. Raises ConfigError naming what is missing.
    """
    source = pathlib.Path(source).expanduser().absolute()
    if not source.exists():
        raise ConfigError(f"no work folder or checkpoint at {source}")
    if (source / "state").is_dir():
        return source
    folder = source / "checkpoints" if (source / "checkpoints").is_dir() else source
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []
    if not steps:
        raise ConfigError(f"{source} holds no checkpoint (expected {folder}/<step>)")
    if which == "last":
        step = steps[-1]
    elif which == "best":
        step = _best_step(folder)
    elif which.isdigit() and int(which) in steps:
        step = int(which)
    else:
        raise ConfigError(f"no checkpoint {which!r} in {folder}: there are best, last, {', '.join(map(str, steps))}")
    return folder / str(step)


def _best_step(folder: pathlib.Path) -> int:
    run = json.loads((folder.parent / "config.json").read_text())["checkpoint"]
    with ocp.training.Checkpointer(folder) as checkpointer:
        scored = [(c.metrics[run["best"]], c.step) for c in checkpointer.checkpoints if c.metrics]
    if not scored:
        raise ConfigError(f"no checkpoint in {folder} was saved with {run['best'] or 'a metric'}: use last, or a step")
    return (max if run["best_mode"] == "max" else min)(scored, key=lambda pair: pair[0])[1]


def load_variables(checkpoint: pathlib.Path, sharding=None) -> dict:
    """The variables that evaluation uses (the average of the parameters where there is one) of any checkpoint.

    Whole arrays, as `sharding` places them (default: this process's first device). Optimizer state is not read. Raises
    ConfigError where the checkpoint is damaged.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        metadata = ocp.metadata(checkpoint)
        tree = metadata.metadata
        params = "ema" if tree["ema"] is not None else "params"
        abstract = {name: tree[name] for name in (params, "collections")}
        abstract = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), abstract)
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load(checkpoint, abstract)
        sums, expected = checksums(loaded), metadata.custom_metadata["checksums"]
        if wrong := [name for name in sums if sums[name] != expected.get(name)]:
            raise DamagedCheckpoint(f"{wrong[0]} does not have the checksum it was saved with")
    except Exception as error:
        raise ConfigError(f"checkpoint {checkpoint} cannot be read: {_first_line(error)}") from error
    return {"params": loaded[params], **loaded["collections"]}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
