"""Parameter trees: the names of their leaves, and the layouts of unrolled and scanned layers, nested to any depth."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.errors import ConfigError

_BLOCK = re.compile(r"blocks_\d+")


def path_name(path) -> str:
    """A key path of jax.tree_util as 'a/b/c'; tuple positions and attribute names count as names."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def stack_blocks(params: Mapping) -> dict:
    """`params` with each run blocks_0 ... blocks_{n-1} as one `blocks`, whose arrays gain a leading layer axis.

    Undone by `unstack_blocks`. Raises ConfigError if a block is missing or has another structure, shape or dtype than
    the first.
    """
    tree = _map_children(stack_blocks, params)
    count = sum(_BLOCK.fullmatch(name) is not None for name in tree)
    if not count:
        return tree
    names = [f"blocks_{i}" for i in range(count)]
    if missing := [name for name in names if name not in tree]:
        raise ConfigError(f"{count} numbered blocks do not stack: '{missing[0]}' is missing")
    blocks = [tree.pop(name) for name in names]
    signatures = [jax.tree.map(lambda x: (x.shape, str(x.dtype)), block) for block in blocks]
    if odd := [name for name, signature in zip(names, signatures, strict=True) if signature != signatures[0]]:
        raise ConfigError(f"blocks do not stack: the parameters of '{odd[0]}' differ in shape or dtype from blocks_0's")
    return tree | {"blocks": jax.tree.map(lambda *layers: _numpy_or_jax(layers[0]).stack(layers), *blocks)}


def unstack_blocks(params: Mapping) -> dict:
    """`params` with each `blocks` as blocks_0 ... blocks_{n-1}, whose arrays lose their leading layer axis."""
    tree = dict(params)
    if "blocks" in tree:
        blocks = tree.pop("blocks")
        depth = jax.tree.leaves(blocks)[0].shape[0]
        tree |= {f"blocks_{i}": jax.tree.map(lambda x, i=i: _layer(x, i), blocks) for i in range(depth)}
    return _map_children(unstack_blocks, tree)


def _layer(x, i: int):
    """Layer `i` of an array, or of the shape of one."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x[i]


def _map_children(function, tree: Mapping) -> dict:
    return {name: function(child) if isinstance(child, Mapping) else child for name, child in tree.items()}


def _numpy_or_jax(x):
    return np if isinstance(x, np.ndarray) else jnp
