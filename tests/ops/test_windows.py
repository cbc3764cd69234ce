import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.ops import windows as ops

sides = st.integers(1, 5)
windows = st.tuples(sides, sides)
sizes = st.tuples(st.integers(1, 11), st.integers(1, 11))
quickly = settings(max_examples=60, deadline=None)


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


def shifts_of(window):
    return st.tuples(*(st.integers(0, side - 1) for side in window))


@quickly
@given(counts=windows, window=windows, rest=st.sampled_from([(), (2,), (2, 3)]))
def test_partition_by_loops_and_its_inverse(counts, window, rest):
    (rows, columns), (p, q) = counts, window
    x = numbered(2, rows * p, columns * q, *rest)
    got = ops.partition(x, window)
    expected = np.stack(
        [
            np.stack([x[:, i * p + a, j * q + b] for a in range(p) for b in range(q)], axis=1)
            for i in range(rows)
            for j in range(columns)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(ops.unpartition(got, x.shape[1:3], window), x)


@settings(max_examples=10, deadline=None)
@given(size=sizes, shift=windows)
def test_cyclic_shift_moves_up_and_left_and_back(size, shift):
    x = numbered(1, *size, 2)
    shifted = np.asarray(ops.cyclic_shift(x, shift))
    for i, j in np.ndindex(size):
        np.testing.assert_array_equal(shifted[0, i, j], x[0, (i + shift[0]) % size[0], (j + shift[1]) % size[1]])
    np.testing.assert_array_equal(ops.cyclic_shift(shifted, (-shift[0], -shift[1])), x)


@settings(max_examples=20, deadline=None)
@given(size=sizes, sides=windows)
def test_padding_is_the_least_and_zero_at_the_bottom_and_the_right(size, sides):
    x = 1 + numbered(1, *size, 2)
    padded = np.asarray(ops.pad_to_multiple(x, sides))
    for length, side, got in zip(size, sides, padded.shape[1:3], strict=True):
        assert got % side == 0 and 0 <= got - length < side
    np.testing.assert_array_equal(padded[:, : size[0], : size[1]], x)
    assert padded.sum() == x.sum() and padded.shape[3:] == (2,)


def pairs(window):
    """(row, column) of a query and of a key, and their numbers in the window, for each pair of its tokens."""
    for (i, (a, b)), (j, (c, d)) in (
        (x, y) for x in enumerate(np.ndindex(window)) for y in enumerate(np.ndindex(window))
    ):
        yield i, j, a - c, b - d


def position_index(window):
    """int[N, N] of the official table's rows, from the offset (1 - p, 1 - q) on, columns running fastest."""
    p, q = window
    index = np.empty((p * q, p * q), np.int32)
    for i, j, down, right in pairs(window):
        index[i, j] = (down + p - 1) * (2 * q - 1) + right + q - 1
    return index


def table_of(window, heads, seed=0):
    p, q = window
    return np.random.default_rng(seed).normal(size=(2 * p - 1, 2 * q - 1, heads)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(window=windows, heads=st.integers(1, 3))
def test_bias_and_its_gradient_are_those_of_looking_up(window, heads):
    table = table_of(window, heads)
    index = position_index(window)
    cotangent = np.random.default_rng(1).normal(size=(heads, *index.shape)).astype(np.float32)

    @jax.jit
    def value_and_gradient(table):
        bias, back = jax.vjp(ops.relative_bias, table)
        return bias, back(cotangent)[0]

    bias, gradient = value_and_gradient(table)
    np.testing.assert_array_equal(bias, table.reshape(-1, heads)[index].transpose(2, 0, 1))
    expected = np.zeros_like(table.reshape(-1, heads))
    np.add.at(expected, index, cotangent.transpose(1, 2, 0))
    np.testing.assert_allclose(gradient, expected.reshape(table.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [(7, 7), (2, 5), (1, 4), (1, 1)])
def test_bias_neither_gathers_nor_scatters(window):
    def program(bias):
        return jax.jit(jax.value_and_grad(lambda table: (bias(table) ** 2).sum())).lower(table_of(window, 2)).as_text()

    def look_up(table):
        return table.reshape(-1, 2)[position_index(window)]

    assert all(word in program(look_up) for word in ("stablehlo.gather", "stablehlo.scatter"))
    assert not any(word in program(ops.relative_bias) for word in ("gather", "scatter"))


@st.composite
def cuts(draw):
    window = draw(windows)
    return draw(sizes), window, draw(shifts_of(window))


@quickly
@given(cut=cuts(), padding_apart=st.booleans())
def test_regions_hold_what_was_together_before_rolling(cut, padding_apart):
    """Two tokens belong together where they are as far from each other on the map as in the window they came to."""
    size, window, shift = cut
    padded = tuple(-(-length // side) * side for length, side in zip(size, window, strict=True))
    places = np.stack(np.indices(padded), axis=-1)
    places = np.roll(places, (-shift[0], -shift[1]), axis=(0, 1))
    regions = ops.window_regions(size, window, shift, padding_apart)
    together = []
    for n, (i, j) in enumerate(np.ndindex(padded[0] // window[0], padded[1] // window[1])):
        cell = places[i * window[0] :, j * window[1] :][: window[0], : window[1]].reshape(-1, 2)
        real = (cell < size).all(-1)
        for a, b, down, right in pairs(window):
            expected = (cell[a] - cell[b] == (down, right)).all()
            if padding_apart and not (real[a] and real[b]):
                expected = real[a] == real[b]
            together.append(expected)
            assert expected == (regions is None or regions[n, a] == regions[n, b])
    assert (regions is None) == all(together)


def test_regions_are_small_integers_and_computed_once():
    regions = ops.window_regions((7, 5), (4, 4), (2, 2))
    assert regions.dtype == np.int32 and regions.shape == (4, 16)
    assert ops.window_regions((7, 5), (4, 4), (2, 2)) is regions
    assert ops.window_regions((8, 4), (4, 4), (0, 0)) is None
    assert ops.window_regions((7, 5), (4, 4), (0, 0), padding_apart=False) is None
    assert ops.window_regions((7, 4), (4, 4), (0, 0)) is not None


def test_region_mask_compares_within_each_window():
    regions = np.array([[0, 0, 1], [2, -1, 2]], np.int32)
    mask = np.asarray(ops.region_mask(regions))
    assert mask.dtype == bool and mask.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(mask[1, 0], [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize(
    ("size", "window", "square", "axis"),
    [
        ((14, 14), (7, 7), ((7, 7), (3, 3)), ((7, 7), (3, 3))),
        ((9, 14), (8, 8), ((8, 8), (4, 4)), ((8, 8), (4, 4))),
        ((7, 7), (7, 7), ((7, 7), (0, 0)), ((7, 7), (0, 0))),
        ((4, 4), (7, 7), ((4, 4), (0, 0)), ((4, 4), (0, 0))),
        ((7, 14), (7, 7), ((7, 7), (0, 0)), ((7, 7), (0, 3))),
        ((14, 4), (7, 7), ((4, 4), (0, 0)), ((7, 4), (3, 0))),
        ((4, 5), (7, 7), ((4, 4), (0, 0)), ((4, 5), (0, 0))),
        ((1, 30), (7, 7), ((1, 1), (0, 0)), ((1, 7), (0, 3))),
        ((3, 3), (1, 1), ((1, 1), (0, 0)), ((1, 1), (0, 0))),
        ((14, 6), (4, 6), None, ((4, 6), (2, 0))),
        ((3, 6), (4, 5), None, ((3, 5), (0, 2))),
    ],
)
def test_windows_shrink_to_the_map(size, window, square, axis):
    assert ops.fit_window(size, window, "axis") == axis
    if square:
        assert ops.fit_window(size, window) == ops.fit_window(size, window, "square") == square


@settings(max_examples=30, deadline=None)
@given(window=windows, pretrained=st.none() | windows)
def test_log_coordinates_are_swin_v2_s(window, pretrained):
    """As models/swin_transformer_v2.py of microsoft/Swin-Transformer, where it does not divide by zero."""
    coordinates = ops.log_coordinates(window, pretrained)
    assert coordinates.dtype == np.float32
    for i, down in enumerate(range(1 - window[0], window[0])):
        for j, right in enumerate(range(1 - window[1], window[1])):
            for got, offset, side in zip(coordinates[i, j], (down, right), pretrained or window, strict=True):
                x = 8 * offset / (side - 1) if side > 1 else 8 * offset
                np.testing.assert_allclose(got, np.sign(x) * np.log2(abs(x) + 1.0) / np.log2(8), rtol=1e-6)
    for side, end in zip(window, coordinates[-1, -1], strict=True):
        if pretrained is None:
            np.testing.assert_allclose(end, np.log2(9) / 3 if side > 1 else 0.0, rtol=1e-6)


def test_everything_here_traces_under_jit():
    x = jnp.arange(2 * 5 * 6, dtype=jnp.float32).reshape(2, 5, 6, 1)

    @jax.jit
    def there_and_back(x):
        padded = ops.cyclic_shift(ops.pad_to_multiple(x, (3, 4)), (1, 2))
        cells = ops.partition(padded, (3, 4))
        return ops.cyclic_shift(ops.unpartition(cells, padded.shape[1:3], (3, 4)), (-1, -2))[:, :5, :6]

    np.testing.assert_array_equal(there_and_back(x), x)
