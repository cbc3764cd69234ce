"""Frozen features of whole data sources, and their way back onto the devices."""

import contextlib
import contextvars
import itertools
import math
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation.examples import every_example
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

        def step(variables, batch):
            return task.features(variables, batch), batch["label"], batch["mask"], batch["id"]

        self.step = jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, variables: dict, spec: str | tuple) -> tuple[np.ndarray, np.ndarray]:
        """Features float32[n, D] and labels int32[n] of the n readable examples of the source that `spec` names.

        In the source's order; of a mix every example counts once, whatever the weights.
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
        steps = (self.step(variables, batch) for batch in every_example(source, self.config, self.mesh))
        features, labels, ids = [], [], []
        for rows, _ in itertools.pairwise(itertools.chain(steps, [None])):  # the next step runs while these are read
            x, label, mask, id = jax.device_get(rows)
            features.append(x[mask])
            labels.append(label[mask])
            ids.append(id[mask])
        if not any(map(len, labels)):
            raise ConfigError(f"none of the images of {spec!r} can be read")
        order = np.argsort(np.concatenate(ids))
        return np.concatenate(features)[order].astype(np.float32, copy=False), np.concatenate(labels)[order]


def labelled_source(config, name: str):
    """(spec, source) that the evaluator `name` learns from: its own key `train`, or the training data.

    Raises ConfigError where the evaluation data has classes that the source does not know.
    """
    spec = config.evals[name].train or config.data.train
    source = open_source(spec, tfds_dir=config.data.tfds_dir)
    classes = open_source(config.data.eval, tfds_dir=config.data.tfds_dir).num_classes
    if classes > source.num_classes:
        raise ConfigError(
            f"config.data.eval={config.data.eval!r} has {classes} classes, but {spec!r}, from which evals.{name} learns,"
            f" only {source.num_classes}"
        )
    return spec, source


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
