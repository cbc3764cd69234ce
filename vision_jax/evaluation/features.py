"""Frozen features of whole data sources, and moving them back onto the devices."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.data import open_source
from vision_jax.data.classes import names_of
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.examples import every_example, every_row
from vision_jax.evaluation.learned_classes import labelled, learned_numbers
from vision_jax.ops.sharding import BATCH_AXES

_kept: contextvars.ContextVar[dict | None] = contextvars.ContextVar("kept_features", default=None)


@contextlib.contextmanager
def shared_features() -> Iterator[None]:
    """A context in which the FeatureExtractors of a task share what they have extracted; it is dropped at the end."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


class FeatureExtractor:
    """`task.features` of every example of a source, as whole host arrays in every process."""

    def __init__(self, task, config, mesh: Mesh):
        self.task, self.config, self.mesh = task, config, mesh
        self.rows = every_row(lambda variables, batch: labelled_rows(task.features(variables, batch), batch), mesh)

    def __call__(self, variables: dict, spec: str | tuple) -> tuple[np.ndarray, np.ndarray]:
        """Features float32[n, D] and labels int32[n] of the n readable examples of the source that `spec` names.

        They are in the source's order; every example of a mix counts once, whatever its weight. Labels are the source's.
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
        features, labels, _ = in_order(self.rows(variables, every_example(source, self.config, self.mesh)))
        if not len(labels):
            raise ConfigError(f"none of the images of {spec!r} can be read")
        return features, labels


def labelled_rows(rows: jax.Array, batch: dict) -> tuple:
    """The rows that `in_order` takes from a batch, through `every_row`."""
    return rows, batch["label"], batch["id"]


def in_order(parts: Iterator[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows float32[n, D], labels int32[n] and ids int32[n] of the n readable examples of a source, in its order."""
    rows, labels, ids = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(ids)
    return rows[order].astype(np.float32, copy=False), labels[order], ids[order]


def learned_source(at: Evaluation, train: str | tuple):
    """(spec, source, numbers) for the source that an evaluator learns classes from: `train` or the training data.

    numbers: int32[C], the number in the source of each class of the evaluation data, see `learned_numbers`. Raises
    ConfigError if either has no classes, or the evaluation data has classes that the source lacks.
    """
    spec = train or at.config.data.train
    source = open_source(spec, tfds_dir=at.config.data.tfds_dir)
    if not source.num_classes:
        raise ConfigError(f"{at.key} learns classes, and {spec!r} has none; set evals.{at.name}.train")
    whose = f"{spec!r}, from which evals.{at.name} learns,"
    return spec, source, learned_numbers(labelled(at), at.spec, names_of(source), source.num_classes, whose)


def in_chunks(x: np.ndarray, rows: int, mesh: Mesh, fill=0) -> jax.Array:
    """A host array [n, ...] as [chunks, c, ...], with c at most about `rows`, and each chunk spread over the batch axes.

    The end is padded with `fill`. Every process has all of `x`, and places its own part.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    chunks = -(-len(x) // max(rows, ways))
    size = -(-len(x) // (chunks * ways)) * ways
    padding = [(0, chunks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
    x = np.pad(x, padding, constant_values=fill).reshape(chunks, size, *x.shape[1:])
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)), x.__getitem__)
