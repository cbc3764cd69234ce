import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.models import stack_blocks, unstack_blocks


def block(i):
    return {"attn": {"kernel": np.full((2, 3), i, np.float32)}, "norm": {"scale": np.full(2, 10 + i, np.float32)}}


def tree(depth):
    inner = {f"blocks_{i}": block(i) for i in range(depth)} | {"norm": {"scale": np.ones(2)}}
    return inner | {"decoder": {f"blocks_{i}": block(i + 20) for i in range(2)}}


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_stacking_and_its_inverse(depth):
    stacked = stack_blocks(tree(depth))
    chex.assert_shape(stacked["blocks"]["attn"]["kernel"], (depth, 2, 3))
    np.testing.assert_array_equal(stacked["blocks"]["attn"]["kernel"][:, 0, 0], np.arange(depth))
    chex.assert_shape(stacked["decoder"]["blocks"]["norm"]["scale"], (2, 2))
    chex.assert_trees_all_equal(unstack_blocks(stacked), tree(depth))
    chex.assert_trees_all_equal(stack_blocks(stacked), stacked)


def test_stacks_device_arrays_as_such():
    stacked = stack_blocks(jax.tree.map(jnp.asarray, tree(2)))
    assert isinstance(stacked["blocks"]["norm"]["scale"], jax.Array)


def test_blocks_that_do_not_stack():
    missing = tree(3)
    del missing["blocks_1"]
    uneven = tree(2)
    uneven["blocks_1"]["norm"]["scale"] = np.ones(3)
    for wrong in (missing, uneven):
        with pytest.raises(ConfigError, match="do not stack"):
            stack_blocks(wrong)
