"""Weighted nearest neighbours on frozen features (Wu et al., 2018, https://arxiv.org/abs/1805.01978)."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.features import FeatureExtractor, in_chunks, learned_source
from vision_jax.ops.losses import topk_correct, tops
from vision_jax.ops.sharding import BATCH_AXES
from vision_jax.ops.unit_vectors import unit_vectors

SCRATCH = 2**26  # elements of the similarities that a device holds at once
VOTERS = 1024  # queries whose votes for all classes a device holds at once


class KNNEvaluator:
    """The share of examples that their nearest training examples classify correctly: `top1`, `top5`.

    The k training examples whose features have the largest cosine similarity s vote for their class with a weight of
    exp(s / temperature). A class without a vote is never right; with five classes or fewer there is no top 5.
    """

    def __init__(self, at: Evaluation, *, train: str | tuple, k: int, temperature: float):
        self.at = at
        self.train, source, self.numbers = learned_source(at, train)
        if not 1 <= k <= len(source):
            raise ConfigError(
                f"{at.key}.k must lie between 1 and the {len(source)} examples of {self.train!r}, got {k}"
            )
        if temperature <= 0:
            raise ConfigError(f"{at.key}.temperature must be above 0, got {temperature}")
        self.tops = tops(source.num_classes)
        self.metrics = tuple(f"top{top}" for top in self.tops)
        self.extract = FeatureExtractor(at.task, at.config, at.mesh)
        count = functools.partial(
            count_correct, k=k, temperature=temperature, num_classes=source.num_classes, tops=self.tops
        )
        rows, chunks = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES)
        sharded = jax.shard_map(
            count, mesh=at.mesh, in_specs=(rows, rows, chunks, chunks), out_specs=(PartitionSpec(),) * len(self.tops)
        )
        self.count = jax.jit(sharded)

    def run(self, variables: dict) -> dict[str, float]:
        bank, bank_labels = self.extract(variables, self.train)
        queries, labels = self.extract(variables, self.at.spec)
        labels = self.numbers[labels]
        ways = math.prod(self.at.mesh.shape[axis] for axis in BATCH_AXES)
        rows = SCRATCH // -(-len(queries) // ways)
        correct = self.count(
            in_chunks(queries, len(queries), self.at.mesh)[0],
            in_chunks(labels, len(labels), self.at.mesh, fill=-1)[0],
            in_chunks(bank, rows, self.at.mesh),
            in_chunks(bank_labels, rows, self.at.mesh, fill=-1),
        )
        return {name: int(value) / len(labels) for name, value in zip(self.metrics, correct, strict=True)}


def count_correct(queries, labels, bank, bank_labels, *, k: int, temperature: float, num_classes: int, tops: tuple):
    """For each n in `tops`, how many queries on all devices have their label among the n classes with the most votes.

    For use in shard_map over the batch axes; queries float[q, D] and labels int32[q] (-1: padding) are a device's own,
    the bank is as in `nearest_neighbors`. Counts are int32[] each, the same on every device.
    """
    similarity, neighbor_labels = nearest_neighbors(queries, bank, bank_labels, k)
    # Relative to the nearest, since exp(1 / temperature) may overflow; padding has similarity -inf and no weight.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)

    def judge(query):
        label, weights, classes = query
        votes = jnp.zeros(num_classes).at[classes].add(weights, mode="drop")
        return [topk_correct(votes[None], label[None], top)[0] & (votes[label] > 0) for top in tops]

    correct = jax.lax.map(judge, (labels, weights, neighbor_labels), batch_size=VOTERS)
    return tuple(jax.lax.psum(jnp.sum(each), BATCH_AXES) for each in correct)


def nearest_neighbors(queries, bank, bank_labels, k: int):
    """The k rows of the bank with the largest cosine similarity to each query, nearest first, ties in order.

    For use in shard_map over the batch axes: the bank is spread over the devices in chunks, float[chunks, c, D] and
    int32[chunks, c] (-1: padding) on each; one chunk at a time is gathered and compared with a device's own queries
    float[q, D], so that no device ever holds the whole bank or all similarities.

    Returns:
        Similarities float32[q, k] and labels int32[q, k]; -inf and -1 where the bank has fewer than k rows. NaN becomes
        inf, ahead of all.
    """
    queries = unit_vectors(queries)

    def compare(best, chunk):
        rows, labels = jax.lax.all_gather(chunk, BATCH_AXES, tiled=True)  # [C, D], [C]
        similarity = jnp.matmul(queries, unit_vectors(rows).T, precision="highest")  # [q, C]
        similarity = jnp.where(jnp.isnan(similarity), jnp.inf, similarity)  # top_k puts some NaNs first, others last
        similarity = jnp.where(labels < 0, -jnp.inf, similarity)
        similarity, index = jax.lax.top_k(similarity, min(k, len(labels)))
        similarity = jnp.concatenate([best[0], similarity], axis=1)
        labels = jnp.concatenate([best[1], labels[index]], axis=1)
        similarity, index = jax.lax.top_k(similarity, k)
        return (similarity, jnp.take_along_axis(labels, index, axis=1)), None

    none = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    return jax.lax.scan(compare, jax.lax.pcast(none, BATCH_AXES, to="varying"), (bank, bank_labels))[0]
