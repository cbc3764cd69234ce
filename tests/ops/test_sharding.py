import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from vision_jax.ops.sharding import pin_batch, replicate


def mesh(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def pinned(x):
    return jax.jit(lambda x: pin_batch(x * 2))(x)


def test_the_batch_is_split_over_data_and_fsdp():
    with jax.set_mesh(mesh((2, 2, 2), ("data", "fsdp", "tensor"))):
        out = pinned(jnp.ones((8, 3)))
    assert out.sharding.spec[0] == ("data", "fsdp") and out.addressable_shards[0].data.shape == (2, 3)


def test_the_identity_elsewhere():
    x = jnp.ones((8, 3))
    assert len(pinned(x).sharding.device_set) == 1  # no mesh
    with jax.set_mesh(mesh((8,), ("x",))):
        assert pinned(x).sharding.is_fully_replicated  # another project's axes
    with jax.set_mesh(mesh((2, 4), ("data", "fsdp"))):
        assert pinned(x[:1]).sharding.is_fully_replicated  # a size that they do not divide
    with jax.set_mesh(mesh((2, 4), ("data", "fsdp"))):
        spec = PartitionSpec(("data", "fsdp"))
        out = jax.jit(jax.shard_map(lambda x: pin_batch(x * 2), in_specs=spec, out_specs=spec))(x)
        assert (out == 2).all()
    with jax.set_mesh(mesh((2, 4), ("data", "fsdp"), AxisType.Explicit)):
        assert (pinned(x) == 2).all()


def test_a_table_becomes_whole_where_there_are_batch_axes():
    x = jnp.ones((8, 3))
    with jax.set_mesh(mesh((2, 4), ("data", "fsdp"))):
        placed = jax.device_put(x, jax.NamedSharding(jax.sharding.get_mesh(), PartitionSpec("fsdp")))
        assert jax.jit(lambda x: replicate(x * 2))(placed).sharding.is_fully_replicated
    assert replicate(x) is x
    with jax.set_mesh(mesh((8,), ("x",))):
        assert replicate(x) is x
