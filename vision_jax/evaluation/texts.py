"""Embeddings of whole lists of texts."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision_jax.evaluation.features import in_chunks


class TextEmbedder:
    """`task.text_embeddings` of a list of texts, as a whole host array in every process.

    Texts with the same tokens are embedded once, so that they tie exactly wherever they appear. `distinct` int[n] numbers
    the different ones. Raises ConfigError for a text that is too long if `config.data.long_texts` is "raise".
    """

    def __init__(self, task, config, mesh: Mesh, texts: Sequence[str]):
        self.mesh, self.rows = mesh, config.evals.batch_size or config.batch_size
        tokens = task.tokenizer(texts, truncate=config.data.long_texts == "cut")
        self.tokens, distinct = np.unique(tokens, axis=0, return_inverse=True)
        self.distinct = distinct.reshape(-1)

        def step(variables, chunks, index):
            return task.text_embeddings(variables, chunks[index])

        self.step = jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, variables: dict) -> np.ndarray:
        """float32[n, E], rows of length 1."""
        chunks = in_chunks(self.tokens, self.rows, self.mesh)
        embeddings = [np.asarray(self.step(variables, chunks, index)) for index in range(len(chunks))]
        return np.concatenate(embeddings)[self.distinct]
