"""Classification by class names alone (Radford et al., 2021, https://arxiv.org/abs/2103.00020, section 3.1)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.examples import every_example
from vision_jax.evaluation.learned_classes import labelled
from vision_jax.evaluation.prompts import check_templates, class_prompts, open_classes, open_templates
from vision_jax.evaluation.texts import TextEmbedder
from vision_jax.evaluation.told import tell_once
from vision_jax.ops.losses import topk_correct, tops


class ZeroShotEvaluator:
    """The share of pictures whose class has the most similar text: `top1`, `top5`.

    A class's embedding is the mean of its prompts' embeddings of length 1, normalised to length 1 again. Ties, such as
    between two classes with one name, are ordered by class. With five classes or fewer there is no top 5.
    """

    def __init__(self, at: Evaluation, *, classes: str, templates: str | tuple):
        self.at, task = at, at.task
        self.source = labelled(at)
        if len(self.source.class_names) != self.source.num_classes:
            raise ConfigError(f"{at.spec!r} does not name its {self.source.num_classes} classes: not for {at.key}")
        classes = open_classes(classes, self.source.class_names, repr(at.spec))
        if templates and isinstance(templates, str):
            templates = open_templates(templates)
        elif templates:
            templates = check_templates(templates, f"{at.key}.templates")
        else:
            templates = check_templates(at.config.data.templates or ("{}",), "config.data.templates")
        prompts = class_prompts(templates, classes)
        self.texts = TextEmbedder(task, at.config, at.mesh, [prompt for each in prompts for prompt in each])
        # Classes with the same prompts share one column of similarities, so that rounding cannot tell them apart.
        same = self.texts.distinct.reshape(len(classes), len(templates))
        _, self.first, column = np.unique(same, axis=0, return_index=True, return_inverse=True)
        self.column = column.reshape(-1)
        self.tell_of_ties(prompts)
        self.tops = tops(len(classes))
        self.metrics = tuple(f"top{top}" for top in self.tops)
        self.replicated = NamedSharding(at.mesh, PartitionSpec())

        def count(variables, classes, batch):
            images = task.image_embeddings(variables, batch)  # [B, E]
            logits = jnp.matmul(images, classes.T, precision="highest")[:, self.column]
            correct = [topk_correct(logits, batch["label"], top) & batch["mask"] for top in self.tops]
            return jnp.stack([batch["mask"].sum(), *(each.sum() for each in correct)])

        self.count = jax.jit(count, out_shardings=self.replicated)

    def run(self, variables: dict) -> dict[str, float]:
        distinct = self.class_embeddings(variables)[self.first]
        classes = jax.make_array_from_callback(distinct.shape, self.replicated, distinct.__getitem__)
        counts = jnp.zeros(1 + len(self.tops), jnp.int32, device=self.replicated)
        for batch in every_example(self.source, self.at.config, self.at.mesh):
            counts = counts + self.count(variables, classes, batch)
        total, *correct = jax.device_get(counts).tolist()
        if not total:
            raise ConfigError(f"none of the images of {self.at.spec!r} can be read")
        return {name: value / total for name, value in zip(self.metrics, correct, strict=True)}

    def class_embeddings(self, variables: dict) -> np.ndarray:
        """float32[K, E], rows of length 1, in the source's class order."""
        return ensembled(self.texts(variables), len(self.column))

    def tell_of_ties(self, prompts: list[list[str]]) -> None:
        first = self.first[self.column]
        later = np.flatnonzero(first < np.arange(len(first)))
        if len(later):
            tell_once(
                f"{self.at.name}: {len(later)} classes of {self.at.spec!r} read like one before them, which goes first, such as"
                f" {later[0]} like {first[later[0]]}: {prompts[later[0]][0]!r}"
            )


def ensembled(prompts: np.ndarray, classes: int) -> np.ndarray:
    """float32[classes, E], rows of length 1: the mean of each class's `prompts`, float32[classes * templates, E]."""
    mean = prompts.reshape(classes, -1, prompts.shape[-1]).mean(1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
