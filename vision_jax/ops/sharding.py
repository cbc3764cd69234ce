"""Keeps activations on the batch axes of the ambient mesh, so that modules need not know about meshes."""

import math

import jax
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def batch_axes(size: int) -> tuple[str, ...]:
    """The axes of the ambient mesh (`jax.set_mesh`) over which a batch of `size` examples is spread.

    Only the mesh's Auto axes count. Empty if no mesh is set, if its axes have other names or are Explicit or Manual
    (inside shard_map), or if they do not divide `size` evenly.
    """
    axes = _auto_axes()
    mesh = jax.sharding.get_abstract_mesh()
    return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()


def _auto_axes() -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)) if not mesh.empty else {}
    return tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto)


def pin_batch(x: jax.Array) -> jax.Array:
    """`x` [B, ...] with its leading axis constrained to be sharded over its `batch_axes`; unchanged if there are none."""
    axes = batch_axes(x.shape[0]) if x.ndim else ()
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def replicate(x: jax.Array) -> jax.Array:
    """`x` replicated on every device; unchanged if there are no batch axes.

    Use it on a sharded table before looking up rows: otherwise the rows of the whole batch may move instead.
    """
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if _auto_axes() else x


def micro_batches(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; example i goes to part i mod `parts`: each device keeps its own examples."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
