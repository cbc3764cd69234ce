"""The task's own metrics, over every example of a source exactly once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.data.classes import Renumbered
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.examples import one_ahead, readable_rows
from vision_jax.evaluation.learned_classes import labelled, learned_numbers


class TaskEvaluator:
    """The means of the metrics of the task's loss in evaluation mode, and of its `score` for every example."""

    def __init__(self, at: Evaluation):
        self.at, self.source = at, self.open(at)
        task, replicated = at.task, NamedSharding(at.mesh, PartitionSpec())
        self.reader = task.reader(self.source, train=False)

        def step(variables, batch):
            sums = task.loss(variables, batch, None, train=False)[1][1]
            return sums, (*task.measure(variables, batch), batch["mask"])

        self.step = jax.jit(step, out_shardings=replicated)
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def open(self, at: Evaluation):
        return at.source

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.at.task.metrics, "examples")

    def run(self, variables: dict) -> dict[str, float]:
        """`{"loss": ..., ..., "examples": ...}`, means over the source's examples.

        Raises ConfigError if none of them can be read.
        """
        sums, rows, step = None, [], functools.partial(self.step, variables)
        for metrics, arrays in one_ahead(map(step, self.at.batches(self.source, self.reader))):
            sums = metrics if sums is None else self.add(sums, metrics)
            if len(arrays) > 1:
                rows.append(readable_rows(*arrays))
        sums = jax.device_get(sums)
        if not sums["loss"][1]:
            raise ConfigError(f"none of the images of {self.at.key}, {self.at.spec!r}, can be read")
        means = {name: float(total) / float(count) for name, (total, count) in sums.items()}
        scores = self.at.task.score(*map(np.concatenate, zip(*rows, strict=True))) if rows else {}
        return means | scores | {"examples": int(sums["loss"][1])}


class ClassificationEvaluator(TaskEvaluator):
    """Labels are renumbered to the model's outputs, by class name if the task has names."""

    def open(self, at: Evaluation):
        source, names = labelled(at), at.task.class_names
        numbers = learned_numbers(source, at.spec, names, at.task.num_classes, "the model")
        return source if (numbers == range(len(numbers))).all() else Renumbered(source, names, numbers.tolist())
