import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.ops import platform


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 1, 3, 4)])
def test_both_formulations_are_numpy_s_product(monkeypatch, cpu, shape):
    monkeypatch.setattr(platform, "on_cpu", lambda: cpu)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=shape).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    dimensions = (((len(shape) - 1,), (0,)), ((), ()))
    out, back = jax.vjp(lambda x, kernel: platform.dense_product(x, kernel, dimensions), x, kernel)
    np.testing.assert_allclose(out, x @ kernel, rtol=1e-5, atol=1e-5)
    dx, dkernel = back(out)
    np.testing.assert_allclose(dx, out @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dkernel, x.reshape(-1, 4).T @ np.reshape(out, (-1, 5)), rtol=1e-4, atol=1e-5)


def test_the_platform_is_the_mesh_s_and_else_the_default():
    assert platform.on_cpu()
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert jax.jit(lambda: jnp.asarray(platform.on_cpu()))()


def test_recomputed_functions_save_their_arguments_alone():
    def saved(function):
        return sum(
            leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(function, x)[1], jnp.ones(7)))
        )

    assert saved(platform.recomputed(jax.nn.gelu)) == 7 < saved(jax.nn.gelu)
