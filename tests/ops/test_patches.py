import jax
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.ops.patches import embed_patches, grid_of, patch_statistics, patchify, unpatchify


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


@pytest.mark.parametrize(("size", "patch"), [((6, 12), (3, 4)), ((8, 4), (2, 4)), ((5, 7), (1, 7))])
def test_patches_become_the_image_again(size, patch):
    images = draw((2, *size, 3))
    grid = grid_of(size, patch)
    patches = patchify(images, patch)
    np.testing.assert_array_equal(unpatchify(patches, grid, patch), images)
    one_channel = draw((2, *size, 1))
    np.testing.assert_array_equal(unpatchify(patchify(one_channel, patch), grid, patch), one_channel)


def test_statistics_are_of_each_patch_with_the_unbiased_variance():
    patches = 3 * draw((2, 5, 12)) + 1
    patches[0, 0] = 7  # without contrast
    mean, std = patch_statistics(patches)
    np.testing.assert_allclose(mean, patches.mean(-1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(std[0, 0], 1e-3, rtol=1e-5)
    half = patch_statistics(patches.astype(jax.numpy.bfloat16))
    assert {x.dtype for x in half} == {np.dtype("float32")}


def test_a_patch_of_one_number_has_no_variance():
    mean, std = patch_statistics(draw((2, 5, 1)))
    np.testing.assert_array_equal(mean, draw((2, 5, 1)))
    np.testing.assert_allclose(std, np.full((2, 5, 1), 1e-3), rtol=1e-5)


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
