"""Tables of positions: fixed two-dimensional sines and cosines, and the index of relative offsets."""

import numpy as np

from vision_jax.errors import ConfigError


def sincos2d(grid: tuple[int, int], width: int, kind: str = "mae", prefix: int = 0) -> np.ndarray:
    """float32[1, prefix + h * w, width]: sin, cos of the column, then sin, cos of the row, each width / 4 wide.

    The grid (h, w) is row by row; the `prefix` entries before it (class token, registers) are zeros.

    kind "mae" has the frequencies 10000^(-i / (width / 4)) of MAE (He et al., 2022, util/pos_embed.py), "big_vision"
    10000^(-i / (width / 4 - 1)) of big_vision's models/vit.py. Computed in float64. Raises ConfigError if width is not
    a multiple of 4.
    """
    if width % 4:
        raise ConfigError(f"sincos2d positions need a width that 4 divides, got width={width}")
    quarter = width // 4
    last = {"mae": quarter, "big_vision": max(quarter - 1, 1)}[kind]
    frequencies = 10000.0 ** (-np.arange(quarter, dtype=np.float64) / last)
    rows, columns = np.indices(grid).reshape(2, -1, 1)
    x, y = columns * frequencies, rows * frequencies
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
    return np.pad(table, [(prefix, 0), (0, 0)])[None]


def relative_offsets(length: int) -> np.ndarray:
    """int32[length, length] of p_q - p_k + length - 1: row q, column k, from 0 to 2 * length - 2."""
    positions = np.arange(length, dtype=np.int32)
    return positions[:, None] - positions[None, :] + np.int32(length - 1)
