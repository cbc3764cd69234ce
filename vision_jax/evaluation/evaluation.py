"""What an evaluator is given: an entry of `config.evals`, and its context."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation.examples import every_example, every_row


class Evaluation(NamedTuple):
    """All that an evaluator needs; `vision_jax.evaluation` describes evaluators.

    An example that measures a classifier's accuracy:

        class Right:
            metrics = ("share",)

            def __init__(self, at):
                self.rows = at.rows(lambda variables, batch: (at.task.outputs(variables, batch)[0], batch["label"]))

            def run(self, variables):
                right = [logits.argmax(-1) == labels for logits, labels in self.rows(variables)]
                return {"share": np.concatenate(right).mean()}
    """

    name: str  # of the entry in config.evals
    spec: Any  # names the source to measure on
    task: Any  # a `vision_jax.tasks.task.Task`
    config: Any  # of the run
    mesh: Mesh  # the devices over which `batches` are spread

    @property
    def key(self) -> str:
        """The config key, for messages."""
        return f"config.evals.{self.name}"

    @property
    def source(self) -> Any:
        """The source that `spec` names, opened. Raises ConfigError if it names none."""
        if not self.spec:
            raise ConfigError(f"{self.key} has nothing to be measured on: set {self.key}.source or config.data.eval")
        return open_source(self.spec, tfds_dir=self.config.data.tfds_dir)

    def batches(self, source=None, reader=None) -> Iterator[dict]:
        """The task's batches, on the devices, that show each example of the source once: see `every_example`."""
        source = self.source if source is None else source
        reader = reader or self.task.reader(source, train=False)
        return every_example(source, self.config, self.mesh, self.task.fields, reader)

    def rows(self, function: Callable) -> Callable[[dict], Iterator[list[np.ndarray]]]:
        """A function: variables -> the results of `function(variables, batch)` for each batch's readable examples.

        `function` returns arrays [B, ...] and is compiled; the results are arrays [n, ...] on the host, whole in every
        process.
        """
        source, rows = self.source, every_row(function, self.mesh)
        reader = self.task.reader(source, train=False)
        return lambda variables: rows(variables, self.batches(source, reader))
