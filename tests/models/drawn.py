"""Variables for tests that want them nowhere zero or one, and without compiling an initialisation."""

import jax
import numpy as np


def draw(model, *inputs):
    """Variables that are nowhere zero or one, so that every parameter matters; statistics are positive."""
    rng = np.random.default_rng(4)

    def values(x):
        sign = rng.choice([-1, 1], x.shape) if len(x.shape) > 1 else 1
        return (sign * rng.uniform(0.1, 0.6, x.shape)).astype(x.dtype)

    return jax.tree.map(values, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def flat(params):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(params)}
