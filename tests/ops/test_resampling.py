import chex
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vision_jax.ops.resampling import resize_grid, resize_posemb

grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=50, deadline=None)
@given(old=grids.filter(lambda g: min(g) > 1), new=grids)
def test_bilinear_is_scipy_s_zoom(old, new):
    table = np.random.default_rng(0).normal(size=(old[0] * old[1], 3))
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = scipy.ndimage.zoom(table.reshape(*old, 3), zoom, order=1)
    np.testing.assert_allclose(resize_grid(table, old, new).reshape(*new, 3), expected, atol=1e-12)


@pytest.mark.parametrize("method", ["bicubic", "bicubic_antialias"])
@settings(max_examples=50, deadline=None)
@given(old=grids, new=grids)
def test_bicubic_is_torch_s_interpolate(method, old, new):
    torch = pytest.importorskip("torch")
    assume(method == "bicubic" or new[1] > 1)  # torch's antialiased columns of a single pixel are not resampled at all
    table = np.random.default_rng(0).normal(size=(old[0] * old[1], 3))
    image = torch.from_numpy(table.reshape(*old, 3)).permute(2, 0, 1)[None]
    options = {"align_corners": False, "antialias": method == "bicubic_antialias"}
    expected = torch.nn.functional.interpolate(image, size=new, mode="bicubic", **options)
    np.testing.assert_allclose(
        resize_grid(table, old, new, method).reshape(*new, 3), expected[0].permute(1, 2, 0).numpy(), atol=1e-6
    )


def test_bicubic_by_hand():
    """Doubling [0, 0, 1, 0, 0]: Keys' kernel at a quarter and three quarters with a = -0.75."""

    def kernel(x, a=-0.75):
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)

    got = resize_grid(np.array([[0.0], [0], [1], [0], [0]]), (5, 1), (10, 1), "bicubic")[:, 0]
    expected = [0, kernel(1.75), kernel(1.25), kernel(0.75), kernel(0.25)]
    np.testing.assert_allclose(got, expected + expected[::-1], atol=1e-12)


def test_antialiased_bicubic_by_hand():
    """Four in place of eight: Keys' kernel, twice as wide, with a = -0.5; weights past the edges are shared out."""

    def kernel(x, a=-0.5):
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)

    inner = np.array([kernel(x / 4) for x in (7, 5, 3, 1, 1, 3, 5, 7)]) / 2  # a sum of 1
    np.testing.assert_allclose(inner.sum(), 1)
    rows = resize_grid(np.eye(8), (8, 1), (4, 1), "bicubic_antialias")
    np.testing.assert_allclose(rows[1], [*inner[1:], 0] / inner[1:].sum(), atol=1e-12)
    np.testing.assert_allclose(rows[0], [*inner[3:], 0, 0, 0] / inner[3:].sum(), atol=1e-12)
    np.testing.assert_allclose(rows[::-1, ::-1], rows, atol=1e-12)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "bicubic_antialias"])
def test_constants_and_prefix_stay(method):
    table = np.concatenate([np.arange(8, dtype=np.float32).reshape(1, 2, 4), np.full((1, 6, 4), 3, np.float32)], axis=1)
    out = resize_posemb(table, (2, 3), (5, 4), num_prefix=2, method=method)
    chex.assert_shape(out, (1, 22, 4))
    chex.assert_type(out, np.float32)
    np.testing.assert_array_equal(out[:, :2], table[:, :2])
    np.testing.assert_allclose(out[:, 2:], 3, rtol=1e-6)


def test_the_table_must_be_over_the_grid():
    with pytest.raises(ValueError, match=r"10 rows.*3 x 3"):
        resize_grid(np.zeros((10, 4)), (3, 3), (2, 2))
