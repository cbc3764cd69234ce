"""Retrieval of texts by pictures, and of pictures by texts, among all those of a source."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from vision_jax.data.decoding import BrokenImage, reason
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.examples import every_example, every_row
from vision_jax.evaluation.features import in_chunks, in_order, labelled_rows
from vision_jax.evaluation.knn import SCRATCH, nearest_neighbors
from vision_jax.evaluation.texts import TextEmbedder
from vision_jax.ops.sharding import BATCH_AXES

TOPS = (1, 5, 10)


class RetrievalEvaluator:
    """Recall at 1, 5 and 10 in both directions: `i2t_r1`, ..., `t2i_r10`, and `examples`.

    Image to text: the share of pictures with a caption of their own among the k captions most similar to them. Text to
    image: the share of captions whose own picture is among the k most similar. Pictures that cannot be read or have no
    caption are left out, and so are their captions. Ties are in the source's order; a NaN similarity is ahead of all and
    never right. If the source has no more than k captions, or pictures, there is no recall at k.
    """

    def __init__(self, at: Evaluation):
        self.at, self.source = at, at.source
        captions, self.owners = every_caption(self.source, at)
        pictures = len(np.unique(self.owners))
        if pictures < 2:
            raise ConfigError(f"{at.key} needs two pictures with captions, {at.spec!r} has {pictures}")
        self.tops = {"i2t": [k for k in TOPS if k < len(captions)], "t2i": [k for k in TOPS if k < pictures]}
        self.metrics = (*(f"{way}_r{k}" for way in self.tops for k in self.tops[way]), "examples")
        embed = at.task.image_embeddings
        self.rows = every_row(lambda variables, batch: labelled_rows(embed(variables, batch), batch), at.mesh)
        self.texts = TextEmbedder(at.task, at.config, at.mesh, captions)
        rows, chunks = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES)
        sharded = jax.shard_map(
            count_found, mesh=at.mesh, in_specs=(rows, rows, chunks, chunks), out_specs=PartitionSpec()
        )
        self.count = jax.jit(sharded)

    def run(self, variables: dict) -> dict[str, float]:
        images, _, ids = in_order(self.rows(variables, every_example(self.source, self.at.config, self.at.mesh)))
        with_caption, readable = np.isin(ids, self.owners), np.isin(self.owners, ids)
        if not readable.any():
            raise ConfigError(f"none of the images of {self.at.spec!r} that have captions can be read")
        pictures = images[with_caption], ids[with_caption]
        texts = self.texts(variables)[readable], self.owners[readable]
        recall = {"i2t": self.recall(pictures, texts), "t2i": self.recall(texts, pictures)}
        values = [recall[way][TOPS.index(k)] for way in self.tops for k in self.tops[way]]
        return dict(zip(self.metrics, [*values, len(pictures[1])], strict=True))

    def recall(self, queries: tuple, bank: tuple) -> list[float]:
        """For each k of TOPS, the share of queries with an entry of the same owner among their k nearest in the bank.

        `queries` and `bank` are each embeddings float32[n, E] and owners int32[n].
        """
        count = len(queries[1])
        ways = math.prod(self.at.mesh.shape[axis] for axis in BATCH_AXES)
        rows = SCRATCH // -(-count // ways)
        found = self.count(
            *(in_chunks(part, count, self.at.mesh, fill=-1)[0] for part in queries),
            *(in_chunks(part, rows, self.at.mesh, fill=-1) for part in bank),
        )
        return [int(hits) / count for hits in found]


def count_found(queries, owners, bank, bank_owners) -> jax.Array:
    """int32[3]: how many queries on all devices have an entry of their owner among the nearest 1, 5 and 10 in the bank.

    For use in shard_map over the batch axes, with arrays as in `nearest_neighbors`; queries float[q, E] and owners
    int32[q] (-1: padding) are a device's own.
    """
    similarity, found = nearest_neighbors(queries, bank, bank_owners, max(TOPS))
    right = (found == owners[:, None]) & jnp.isfinite(similarity)
    return jax.lax.psum(jnp.stack([right[:, :k].any(1).sum() for k in TOPS]), BATCH_AXES)


def every_caption(source, at: Evaluation) -> tuple[list[str], np.ndarray]:
    """All captions of a source, and the index int32 of each one's example; pictures are not decoded.

    Examples that cannot be read are left out. Raises ConfigError if the source has no captions.
    """
    captions, owners = [], []
    for id in range(len(source)):
        try:
            example = source[id]
        except (OSError, BrokenImage) as error:
            reason(error)
            continue
        if "captions" not in example:
            raise ConfigError(
                f"{at.key} needs captions, and {at.spec!r} has none (sentences made of class names, which many pictures"
                " share, do not serve: see evals.zero_shot)"
            )
        captions += example["captions"]
        owners += [id] * len(example["captions"])
    return captions, np.array(owners, np.int32)
