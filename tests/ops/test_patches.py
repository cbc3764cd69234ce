import jax
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.ops.patches import embed_patches, grid_of, patchify


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_patches_come_row_by_row_with_channels_last():
    images = draw((2, 6, 12, 3))
    patches = patchify(images, (3, 4))
    assert patches.shape == (2, 6, 36)
    for row in range(2):
        for column in range(3):
            cut = images[:, row * 3 : row * 3 + 3, column * 4 : column * 4 + 4]
            np.testing.assert_array_equal(patches[:, row * 3 + column], cut.reshape(2, -1))


def test_embedding_is_a_convolution_with_its_gradients():
    images, kernel = draw((2, 10, 6, 3)), draw((5, 2, 3, 4), 1)

    def convolve(images, kernel):
        out = jax.lax.conv_general_dilated(images, kernel, (5, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return out.reshape(2, -1, 4)

    ours, ours_back = jax.vjp(embed_patches, images, kernel)
    theirs, theirs_back = jax.vjp(convolve, images, kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, b in zip(ours_back(ours), theirs_back(ours), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(225, 224), (224, 8), (8, 224)])
def test_sizes_that_do_not_fit_name_both_numbers(size):
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]}.*16x16"):
        grid_of(size, (16, 16))
