"""Loss, top-1 and top-5 over every example of a source exactly once."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.data import open_source
from vision_jax.data.feed import device_batches
from vision_jax.data.pipeline import eval_batches
from vision_jax.errors import ConfigError


class ClassificationEvaluator:
    """Sums the task's metrics in evaluation mode over `config.data.eval`; padding is masked out."""

    metrics = ("loss", "top1", "top5", "examples")

    def __init__(self, task, config, mesh):
        self.config, self.mesh = config, mesh
        self.source = open_source(config.data.eval, tfds_dir=config.data.tfds_dir)
        if self.source.num_classes > task.model.num_classes:
            raise ConfigError(
                f"config.data.eval={config.data.eval!r} has {self.source.num_classes} classes, the model only {task.model.num_classes}"
            )
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = config.evals.classification.batch_size or config.batch_size
        self.batch_size = -(-min(self.batch_size, len(self.source)) // ways) * ways
        replicated = NamedSharding(mesh, PartitionSpec())

        def step(variables, batch):
            return task.loss(variables, batch, None, train=False)[1][1]

        self.step = jax.jit(step, out_shardings=replicated)
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def run(self, variables: dict) -> dict[str, float]:
        """`{"loss": ..., "top1": ..., "top5": ..., "examples": ...}`, each a mean over the source's examples."""
        sums = None
        host = eval_batches(
            self.source,
            self.config,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        for batch in device_batches(host, self.mesh):
            metrics = self.step(variables, batch)
            sums = metrics if sums is None else self.add(sums, metrics)
        sums = jax.device_get(sums)
        means = {name: float(total) / float(count) for name, (total, count) in sums.items()}
        return means | {"examples": int(sums["loss"][1])}
