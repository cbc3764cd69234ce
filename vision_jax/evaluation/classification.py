"""Loss, top-1 and top-5 over every example of a source exactly once."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.data.classes import Renumbered
from vision_jax.errors import ConfigError
from vision_jax.evaluation.examples import every_example
from vision_jax.evaluation.learned_classes import learned_numbers, open_eval_source
from vision_jax.ops.losses import tops


class ClassificationEvaluator:
    """Sums the task's metrics in evaluation mode over `config.data.eval`; padding is masked out.

    Labels are the numbers that the model's outputs have, by the names of classes where the task says its own.

    A model of five classes or fewer has no top 5, which would always be 1.
    """

    def __init__(self, task, config, mesh):
        self.config, self.mesh = config, mesh
        source, names = open_eval_source(config, "classification"), getattr(task, "class_names", ())
        numbers = learned_numbers(source, config, names, task.model.num_classes, "the model")
        same = (numbers == range(len(numbers))).all()
        self.source = source if same else Renumbered(source, names, numbers.tolist())
        self.metrics = ("loss", *(f"top{top}" for top in tops(task.model.num_classes)), "examples")
        replicated = NamedSharding(mesh, PartitionSpec())

        def step(variables, batch):
            return task.loss(variables, batch, None, train=False)[1][1]

        self.step = jax.jit(step, out_shardings=replicated)
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def run(self, variables: dict) -> dict[str, float]:
        """`{"loss": ..., "top1": ..., "top5": ..., "examples": ...}`, each a mean over the source's examples.

        Raises ConfigError where none of them can be read.
        """
        sums = None
        for batch in every_example(self.source, self.config, self.mesh):
            metrics = self.step(variables, batch)
            sums = metrics if sums is None else self.add(sums, metrics)
        sums = jax.device_get(sums)
        if not sums["loss"][1]:
            raise ConfigError(f"none of the images of config.data.eval={self.config.data.eval!r} can be read")
        means = {name: float(total) / float(count) for name, (total, count) in sums.items()}
        return means | {"examples": int(sums["loss"][1])}
