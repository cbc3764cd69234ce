import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.training.partitioning import check_batch, make_mesh, param_spec, share_slices, state_shardings

MESH = {"data": 1, "fsdp": 4, "tensor": 2}


def config(**mesh):
    c = base_config()
    c.mesh = mesh
    return c


def test_the_rest_of_the_devices_goes_where_the_config_says():
    assert dict(make_mesh(config()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(config(data=2, fsdp=-1, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    "mesh", [dict(data=3), dict(data=-1, fsdp=-1), dict(data=-1, fsdp=5), dict(fsdp=0), dict(across=dict(data=3))]
)
def test_meshes_that_do_not_fit(mesh):
    with pytest.raises(ConfigError, match="mesh"):
        make_mesh(config(**mesh))


def test_slices_divide_the_first_axis_that_they_can():
    assert share_slices([256, 1, 1], [1, 1, 1], 4) == [4, 1, 1]
    assert share_slices([1, 128, 4], [1, 1, 1], 2) == [1, 2, 1]
    assert share_slices([8, 32, 1], [1, 2, 1], 2) == [1, 2, 1]  # as said
    assert share_slices([8, 1, 1], [1, 1, 1], 1) == [1, 1, 1]
    for sizes, across, slices in (([6, 1, 1], [1, 1, 1], 4), ([8, 1, 1], [2, 1, 1], 4), ([8, 1, 1], [2, 1, 1], 1)):
        with pytest.raises(ConfigError, match=rf"{slices} slice\(s\) of this run"):
            share_slices(sizes, across, slices)


def test_batch_must_split():
    c = config(data=4, fsdp=2)
    c.batch_size, c.optimizer.accumulate = 24, 2
    with pytest.raises(ConfigError, match=r"batch_size=24.*multiple of 16"):
        check_batch(c, make_mesh(c))


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("params/blocks_0/attn/query/kernel", (64, 64), P("fsdp", "tensor")),
        ("opt_state/0/mu/blocks_0/attn/out/kernel", (64, 64), P("tensor", "fsdp")),
        ("params/blocks_0/attn/query/bias", (64,), P("tensor")),
        ("params/blocks_3/mlp/fc1/kernel", (64, 256), P("fsdp", "tensor")),
        ("params/blocks/mlp/fc2/kernel", (4, 256, 64), P(None, "tensor", "fsdp")),
        ("params/blocks/norm1/scale", (4, 64), P(None, None)),
        ("params/head/kernel", (64, 1000), P(None, "fsdp")),
        ("params/pos_embed", (1, 197, 64), P(None, None, "fsdp")),
        ("params/norm/scale", (63,), P(None)),
        ("step", (), P()),
    ],
)
def test_rules(name, shape, spec):
    assert param_spec(name, shape, MESH, fsdp_min_size=1000) == spec


def test_own_rules_come_first_and_must_match():
    c = config(fsdp=8, data=1, rules=((r"head/kernel", (("data", "fsdp"), None)),))
    mesh = make_mesh(c)
    tree = {"params": {"head": {"kernel": jax.ShapeDtypeStruct((64, 8), jnp.float32)}}}
    tree |= {"opt_state": [{"mu": tree["params"]}], "ema": {"params": tree["params"]}}
    assert {leaf.spec for leaf in jax.tree.leaves(state_shardings(c, mesh, tree))} == {P(("data", "fsdp"), None)}
    for pattern in ("haed/kernel", "kernel", "params/head/kernel", "head"):  # whole paths alone
        c.mesh.rules = ((pattern, (None, "fsdp")),)
        with pytest.raises(ConfigError, match=rf"mesh.rules: '{pattern}' matches no .*nearest path is 'head/kernel'"):
            state_shardings(c, mesh, tree)
    c.mesh.rules = ((r"head/kernel", (None, "fdsp")),)
    with pytest.raises(ConfigError, match=r"'fdsp'.*fsdp"):
        state_shardings(c, mesh, tree)


def test_one_eighth_of_each_large_array_is_on_a_device():
    c = config(data=1, fsdp=8)
    mesh = make_mesh(c)
    tree = {"a": jax.ShapeDtypeStruct((512, 1024), jnp.float32), "b": jax.ShapeDtypeStruct((24,), jnp.float32)}
    placed = jax.jit(
        lambda: jax.tree.map(lambda s: jnp.zeros(s.shape), tree), out_shardings=state_shardings(c, mesh, tree)
    )()
    chex.assert_shape(placed["a"].addressable_shards[0].data, (512, 128))
    chex.assert_shape(placed["b"].addressable_shards[0].data, (24,))
