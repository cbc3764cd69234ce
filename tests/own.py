"""A user's own parts, as a module of theirs has them: `own:Net`, `own:Blobs:16`, ..."""

import types

import flax.linen as nn
import numpy as np

from vision_jax.config import base_config
from vision_jax.tasks.classification import Classification


class Net(nn.Module):
    num_classes: int = 0
    width: int = 8
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Blobs:
    """Dark and light pictures; the length is text, as it comes out of a name."""

    class_names = ("dark", "light")

    def __init__(self, length="8"):
        self.length = int(length)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), 200 * (index % 2), np.uint8), "label": index % 2}


class Weighted(Classification):
    def __init__(self, config, labels, *, gamma: float = 2.0, **others):
        super().__init__(config, labels, **others)
        self.gamma = gamma


class Count:
    metrics = ("examples",)

    def __init__(self, at, *, times: int = 1):
        self.at, self.times = at, times

    def run(self, variables):
        return {"examples": self.times * sum(int(batch["mask"].sum()) for batch in self.at.batches())}


def letters(alphabet, context_length=None):
    return types.SimpleNamespace(alphabet=alphabet, context_length=context_length)


number, blobs = 3, Blobs(4)  # what is no class or function, and a source at hand


def config_of(**keys):
    c = base_config()
    c.merge({"task": "own:Weighted", "model": {"name": "own:Net"}, "batch_size": 8, "duration": "2 steps", **keys})
    c.data = {"train": "own:Blobs:16", "eval": "own:Blobs", "image_size": 8}
    return c
