import math

import chex
import numpy as np
import pytest

from vision_jax.ops.posemb import relative_offsets, sincos2d


@pytest.mark.parametrize(("kind", "divisor"), [("mae", 4), ("big_vision", 3)])
def test_sincos_against_its_formula(kind, divisor):
    """One value at a time, on a grid that is not square; the column comes first, sines before cosines."""
    table = sincos2d((3, 5), 16, kind, prefix=2)
    chex.assert_shape(table, (1, 17, 16))
    chex.assert_type(table, np.float32)
    assert not table[0, :2].any()
    for row in range(3):
        for column in range(5):
            for half, place in enumerate((column, row)):
                for i in range(4):
                    angle = place * 10000 ** (-i / divisor)
                    got = table[0, 2 + row * 5 + column, half * 8 + i], table[0, 2 + row * 5 + column, half * 8 + 4 + i]
                    np.testing.assert_allclose(got, (math.sin(angle), math.cos(angle)), atol=1e-7)


def test_sincos_needs_a_width_of_quarters():
    with pytest.raises(ValueError, match="18"):
        sincos2d((2, 2), 18)


def test_relative_offsets():
    offsets = relative_offsets(4)
    assert offsets.min() == 0 and offsets.max() == 6
    assert offsets[0, 3] == 0 and offsets[3, 0] == 6 and (np.diag(offsets) == 3).all()
