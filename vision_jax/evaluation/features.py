"""Frozen features of whole data sources, and their way back onto the devices."""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.data import open_source
from vision_jax.data.classes import names_of
from vision_jax.errors import ConfigError
from vision_jax.evaluation.examples import every_example
from vision_jax.evaluation.learned_classes import learned_numbers, open_eval_source
from vision_jax.ops.sharding import BATCH_AXES

_kept: contextvars.ContextVar[dict | None] = contextvars.ContextVar("kept_features", default=None)


@contextlib.contextmanager
def shared_features() -> Iterator[None]:
    """Inside, what one FeatureExtractor has extracted is there for all others of the task; at the end it is dropped."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


class FeatureExtractor:
    """`task.features` of every example of a source, as whole host arrays in every process."""

    def __init__(self, task, config, mesh: Mesh):
        self.task, self.config, self.mesh = task, config, mesh
        self.step = row_step(task, "features", mesh)

    def __call__(self, variables: dict, spec: str | tuple) -> tuple[np.ndarray, np.ndarray]:
        """Features float32[n, D] and labels int32[n] of the n readable examples of the source that `spec` names.

        In the source's order; of a mix every example counts once, whatever the weights. Labels are the source's own.
        """
        kept = _kept.get()
        if kept is None:
            return self.extract(variables, spec)
        key = (id(self.task), id(variables), spec)
        if key not in kept:
            kept[key] = self.extract(variables, spec)
        return kept[key]

    def extract(self, variables: dict, spec: str | tuple) -> tuple[np.ndarray, np.ndarray]:
        source = open_source(spec, tfds_dir=self.config.data.tfds_dir)
        features, labels, _ = every_row(functools.partial(self.step, variables), source, self.config, self.mesh)
        if not len(labels):
            raise ConfigError(f"none of the images of {spec!r} can be read")
        return features, labels


def row_step(task, method: str, mesh: Mesh) -> Callable:
    """Jitted (variables, batch) -> the rows float[B, D] of the task's `method`, with "label", "mask" and "id"."""

    def step(variables, batch):
        return getattr(task, method)(variables, batch), batch["label"], batch["mask"], batch["id"]

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))


def every_row(step: Callable, source, config, mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows float32[n, D], labels int32[n] and ids int32[n] of the n readable examples of a source, in its order.

    Whole host arrays in every process. `step(batch)` is one of `row_step`'s.
    """
    steps = map(step, every_example(source, config, mesh))
    parts = []
    for part, _ in itertools.pairwise(itertools.chain(steps, [None])):  # the next step runs while these are read
        *rows, mask, id = jax.device_get(part)
        parts.append([each[mask] for each in (*rows, id)])
    rows, labels, ids = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(ids)
    return rows[order].astype(np.float32, copy=False), labels[order], ids[order]


def labelled_source(config, name: str):
    """What the evaluator `name` learns from, its own key `train` or the training data: (spec, source, numbers).

    numbers: int32[C], for each class of the evaluation data its number in the source, see `learned_numbers`. Raises
    ConfigError where one of the two has no classes, or the evaluation data some that the source does not know.
    """
    spec = config.evals[name].train or config.data.train
    source = open_source(spec, tfds_dir=config.data.tfds_dir)
    if not source.num_classes:
        raise ConfigError(f"config.evals.{name} learns classes, and {spec!r} has none; set evals.{name}.train")
    whose = f"{spec!r}, from which evals.{name} learns,"
    numbers = learned_numbers(open_eval_source(config, name), config, names_of(source), source.num_classes, whose)
    return spec, source, numbers


def in_chunks(x: np.ndarray, rows: int, mesh: Mesh, fill=0) -> jax.Array:
    """A host array [n, ...] as [chunks, c, ...], each chunk's c rows, at most about `rows`, spread over the batch axes.

    The end is padded with `fill`. Every process has the whole of `x`, and places its own part.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    chunks = -(-len(x) // max(rows, ways))
    size = -(-len(x) // (chunks * ways)) * ways
    padding = [(0, chunks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
    x = np.pad(x, padding, constant_values=fill).reshape(chunks, size, *x.shape[1:])
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)), x.__getitem__)
