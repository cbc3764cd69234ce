import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.errors import ConfigError
from vision_jax.ops.masking import num_kept, random_masking, restore_tokens, take_tokens

BATCH = 3


@st.composite
def noises(draw):
    """(noise [B, N], how many stay visible); half of them with many equal values, of which the first are kept."""
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    noise = rng.random((BATCH, count), np.float32) if draw(st.booleans()) else rng.integers(0, 3, (BATCH, count)) / 4
    return noise.astype(np.float32), draw(st.integers(1, count))


def ratio_for(kept, count):
    """A mask ratio that leaves `kept` of `count`, away from where rounding decides."""
    return 1 - (kept + 0.5) / count if kept < count else 0.0


@settings(max_examples=25, deadline=None)
@given(noises())
def test_the_least_noise_stays_visible(case):
    noise, count = case
    kept, restore, mask = jax.device_get(random_masking(noise, ratio_for(count, noise.shape[1])))
    chex.assert_type([kept, restore, mask], [np.int32, np.int32, np.float32])
    for i, row in enumerate(noise):
        order = sorted(range(len(row)), key=lambda token: row[token])
        assert kept[i].tolist() == order[:count]
        assert restore[i].tolist() == [order.index(token) for token in range(len(row))]
        assert mask[i].tolist() == [float(token not in order[:count]) for token in range(len(row))]


@settings(max_examples=15, deadline=None)
@given(noises())
def test_tokens_return_to_their_places(case):
    noise, count = case
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(*noise.shape, 2)).astype(np.float32)
    mask_token = rng.normal(size=(1, 1, 2)).astype(np.float32)
    kept, restore, mask = random_masking(noise, ratio_for(count, noise.shape[1]))
    visible = take_tokens(tokens, kept)
    chex.assert_shape(visible, (BATCH, count, 2))
    restored = np.asarray(restore_tokens(visible, mask_token, restore))
    for i, token in np.ndindex(noise.shape):
        expected = mask_token[0, 0] if mask[i, token] else tokens[i, token]
        np.testing.assert_array_equal(restored[i, token], expected)


def test_gradients_reach_visible_tokens_and_the_mask_token_alone():
    rng = np.random.default_rng(0)
    tokens, weights = rng.normal(size=(2, BATCH, 8, 2)).astype(np.float32)
    kept, restore, mask = random_masking(rng.random((BATCH, 8), np.float32), 0.6)

    def total(tokens, mask_token):
        return (weights * restore_tokens(take_tokens(tokens, kept), mask_token, restore)).sum()

    to_tokens, to_mask_token = jax.grad(total, argnums=(0, 1))(tokens, jnp.zeros((1, 1, 2)))
    masked = np.asarray(mask)[..., None] * weights
    np.testing.assert_array_equal(to_tokens, weights - masked)
    np.testing.assert_allclose(to_mask_token[0, 0], masked.sum((0, 1)), rtol=1e-5)


def test_the_mask_token_takes_the_dtype_of_the_visible_ones():
    _, restore, _ = random_masking(np.arange(4.0)[None], 0.5)
    restored = restore_tokens(jnp.zeros((1, 2, 3), jnp.bfloat16), jnp.ones((1, 1, 3)), restore)
    assert restored.dtype == jnp.bfloat16 and restored[0, :, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"),
    [(196, 0.75, 49), (256, 0.75, 64), (16, 0.75, 4), (5, 0.5, 2), (7, 0.0, 7), (100, 0.9, 9), (3, 0.66, 1)],
)
def test_how_many_stay_visible(tokens, ratio, kept):
    """Rounded down, floating point included, as in MAE's code: 100 * (1 - 0.9) is a little below 10."""
    assert num_kept(tokens, ratio) == kept


@pytest.mark.parametrize(("tokens", "ratio"), [(3, 0.75), (10, 0.9), (196, 1.0)])
def test_nothing_visible_is_an_error(tokens, ratio):
    with pytest.raises(ConfigError, match=rf"mask_ratio'={ratio} .* {tokens} patches"):
        num_kept(tokens, ratio)
