"""Keeping activations on the batch axes of the ambient mesh, without a module's knowing of any mesh."""

import math

import jax
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def pin_batch(x: jax.Array) -> jax.Array:
    """`x` [B, ...] with its leading axis constrained to be sharded over the mesh axes "data" and "fsdp".

    Only axes that the ambient mesh (`jax.set_mesh`) has as Auto axes count. The identity where no mesh is set, where
    its axes have other names or are Explicit or Manual (inside shard_map), and where they do not divide B evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.ndim == 0:
        return x
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto)
    if not axes or x.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
