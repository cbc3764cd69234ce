import jax
import jax.numpy as jnp
import pytest

from vision_jax.models.registry import create_model
from vision_jax.training.flops import count_flops


def test_products_convolutions_and_loops():
    x, w = jnp.zeros((8, 16)), jnp.zeros((16, 32))
    assert count_flops(lambda x, w: x @ w, x, w) == 2 * 8 * 16 * 32

    def looped(x, ws):
        return jax.lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), None)), x, ws)[0]

    assert count_flops(looped, x, jnp.zeros((5, 16, 16))) == 5 * 2 * 8 * 16 * 16
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    assert count_flops(conv, image, kernel) == 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)


@pytest.mark.parametrize(("name", "gmacs"), [("vit_s16", 4.60), ("vit_b32", 4.41), ("vit_r50_l32", 19.4)])
@pytest.mark.parametrize("scan", [False, True])
def test_published_multiply_adds(name, gmacs, scan):
    """GMACs at 224 pixels as timm and the papers count them."""
    model = create_model(name, scan=scan)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert count_flops(model.apply, variables, images) / 2e9 == pytest.approx(gmacs, rel=0.02)
