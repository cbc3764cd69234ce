"""Window attention against attention in the cells that really cutting the map yields, in float64 and without a mask."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_jax.models.window_attention import WindowAttention

DEPTH = 4  # of a head


def cells(length, side, step):
    """Slices of a row of tokens cut at step, step + side, step + 2 side, ..."""
    ends = [0, *range(step or side, length, side), length]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def cut(size, window, rule, shifted):
    """(window, shift) for a map: a window that covers it shrinks and stays; with "square", both axes if one does."""
    if rule == "square" and min(size) <= window[0]:
        return [min(size)] * 2, [0, 0]
    fitted = [min(pair) for pair in zip(size, window, strict=True)]
    return fitted, [p // 2 if shifted and length > p else 0 for length, p in zip(size, window, strict=True)]


def bias_of(params, window, largest, version, pretrained):
    """A function of an offset (down, right) in a window: the value of each head."""
    if version == 1:
        table = params["relative_position_bias_table"]
        return lambda down, right: table[down + largest[0] - 1, right + largest[1] - 1]
    reach = [max(side - 1, 1) for side in pretrained or window]
    hidden, out = params["cpb_mlp"]["hidden"], params["cpb_mlp"]["out"]

    def bias(*offset):
        x = np.array([8 * o / r for o, r in zip(offset, reach, strict=True)])
        x = np.sign(x) * np.log2(1 + np.abs(x)) / np.log2(8)
        x = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0) @ out["kernel"]
        return 16 / (1 + np.exp(-x))

    return bias


def project(params, name, x):
    layer = params[name]
    return x @ layer["kernel"] + layer.get("bias", 0)


def attend_in_cells(params, x, heads, window, shifted, rule, version, pretrained=None):
    size = x.shape[1:3]
    fitted, shift = cut(size, window, rule, shifted)
    bias = bias_of(params, fitted, window, version, pretrained)
    q, k, v = (project(params, name, x).reshape(*x.shape[:3], heads, -1) for name in ("query", "key", "value"))
    if version == 2:
        q, k = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
        scale = np.minimum(np.exp(params["logit_scale"]), 100)
    else:
        scale = np.full(heads, q.shape[-1] ** -0.5)
    out = np.full_like(v, np.nan)
    for cell in itertools.product(*map(cells, size, fitted, shift)):
        rows, columns = np.indices(size)[:, *cell].reshape(2, -1)
        logits = np.einsum("bqhd,bkhd,h->bhqk", q[:, rows, columns], k[:, rows, columns], scale)
        for a, b in np.ndindex(len(rows), len(rows)):
            logits[:, :, a, b] += bias(rows[a] - rows[b], columns[a] - columns[b])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, rows, columns] = np.einsum("bhqk,bkhd->bqhd", weights, v[:, rows, columns])
    return project(params, "out", out.reshape(x.shape))


def random_params(model, x):
    """Kernels that keep the scale, biases, tables and V2's MLP large enough to matter, scales on both sides of 100."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "logit_scale":
            return np.log(np.linspace(5, 200, leaf.size)[::-1])
        return rng.normal(size=leaf.shape) * (leaf.shape[0] ** -0.5 if name.endswith("kernel") else 0.5)

    return jax.tree_util.tree_map_with_path(lambda *args: draw(*args).astype(np.float32), shapes)


def check(model, size, pretrained=None):
    x = np.random.default_rng(1).normal(size=(2, *size, model.num_heads * DEPTH)).astype(np.float32)
    params = random_params(model, x)
    got = jax.jit(model.apply)({"params": params}, x)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), (params, x))
    fields = (model.num_heads, model.window, model.shifted, model.window_rule, model.version, pretrained)
    expected = attend_in_cells(*exact, *fields)
    atol = 1e-5 if model.version == 1 else 3e-5  # cosines in float32, times scales of up to 100
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=atol)


@st.composite
def cases(draw):
    rule = draw(st.sampled_from(["square", "axis"]))
    side = st.integers(1, 5)
    window = draw(st.tuples(side, side)) if rule == "axis" else (draw(side),) * 2
    size = draw(st.tuples(st.integers(1, 13), st.integers(1, 13)))
    return size, window, rule, draw(st.integers(1, 3)), draw(st.booleans())


@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=15, deadline=None)
@given(case=cases())
@example(case=((12, 8), (4, 4), "square", 2, True))  # whole windows
@example(case=((10, 13), (4, 4), "square", 2, True))  # padded by more and by less than the shift
@example(case=((9, 11), (5, 5), "square", 1, True))
@example(case=((9, 11), (5, 5), "square", 1, False))
@example(case=((3, 7), (5, 5), "square", 2, True))  # covered in one axis: no shift, the other one padded
@example(case=((3, 7), (5, 4), "axis", 2, True))
@example(case=((2, 3), (5, 4), "axis", 2, True))
@example(case=((1, 1), (3, 3), "square", 2, True))
def test_window_attention_is_that_in_cells_of_the_map(version, case):
    size, window, rule, heads, shifted = case
    check(WindowAttention(heads, window, shifted, rule, version=version), size)


@pytest.mark.parametrize(("size", "pretrained"), [((8, 8), (3, 3)), ((3, 9), (6, 6)), ((5, 5), (1, 4))])
def test_v2_offsets_are_counted_in_the_pretrained_window(size, pretrained):
    check(WindowAttention(2, (4, 4), True, version=2, pretrained_window=pretrained), size, pretrained)


@pytest.mark.parametrize("version", [1, 2])
def test_a_token_feels_its_own_cell_alone(version):
    """Also where padding was given numbers: whatever stands in other cells, and however much, changes nothing."""
    size, window, shift = (7, 9), 4, 2
    model = WindowAttention(1, (window, window), True, version=version)
    x = np.random.default_rng(0).normal(size=(1, *size, DEPTH)).astype(np.float32)
    params = random_params(model, x)
    apply = jax.jit(model.apply)
    plain = apply({"params": params}, x)
    cell = [(np.arange(length) - shift) // window for length in size]
    for i, j in [(0, 0), (3, 4), (6, 8), (1, 8)]:
        changed = np.asarray(
            apply({"params": params}, x + 100 * (np.indices(size) == [[[i]], [[j]]]).all(0)[..., None])
        )
        own = (cell[0][:, None] == cell[0][i]) & (cell[1] == cell[1][j])
        np.testing.assert_array_equal((changed != plain).any(-1)[0], own)


def test_seen_padding_is_a_zero_token():
    """mask_padding=False: the cell of a padded map, whose padding has the keys and values of biases alone."""
    size, padded = (5, 6), (6, 6)
    model = WindowAttention(2, (3, 3), True, mask_padding=False)
    x = np.random.default_rng(1).normal(size=(2, *size, 2 * DEPTH)).astype(np.float32)
    params = random_params(model, x)
    got = jax.jit(model.apply)({"params": params}, x)
    whole = np.zeros((2, *padded, 2 * DEPTH))
    whole[:, :5] = x
    expected = attend_in_cells(params, whole, 2, (3, 3), True, "square", 1)[:, :5]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(got - attend_in_cells(params, x, 2, (3, 3), True, "square", 1)).max() > 0.01


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("biases", [0.0, 1.0])
def test_gradients_are_finite_where_queries_and_keys_are_zero(version, mask_padding, biases):
    """Padding enters as zeros, and without biases leaves the projections as zeros: V2 takes cosines of them."""
    model = WindowAttention(2, (4, 4), True, version=version, mask_padding=mask_padding)
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2 * DEPTH)).astype(np.float32)
    params = random_params(model, x)
    params = {
        name: {**layer, "bias": biases * layer["bias"]} if "bias" in layer else layer for name, layer in params.items()
    }
    x = jnp.asarray(x).at[0, 0, 0].set(0.0)
    loss = jax.jit(jax.grad(lambda params, x: (model.apply({"params": params}, x) ** 2).sum(), argnums=(0, 1)))
    for leaf in jax.tree.leaves(loss(params, x)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() < 1e16
