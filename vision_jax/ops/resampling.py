"""Resamples tables of positions to another grid, separably, with the kernels of the official implementations."""

import numpy as np

from vision_jax.errors import ConfigError, did_you_mean


def resize_posemb(
    table, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix: int = 0, method: str = "bilinear"
) -> np.ndarray:
    """`table` [..., num_prefix + h * w, D] resampled to [..., num_prefix + new_h * new_w, D].

    The first `num_prefix` entries (class tokens) are kept as they are; for the rest see `resize_grid`.
    """
    prefix, grid = np.split(np.asarray(table), [num_prefix], axis=-2)
    return np.concatenate([prefix, resize_grid(grid, old_grid, new_grid, method)], axis=-2)


def resize_grid(table, old_grid: tuple[int, int], new_grid: tuple[int, int], method: str = "bilinear") -> np.ndarray:
    """`table` [..., h * w, D], row by row, resampled to [..., new_h * new_w, D].

    Computed in float64, returned in the table's dtype. Raises ConfigError if the table does not have the old grid's
    size or the method is unknown.

    - "bilinear": corners aligned, as Google's ViT resizes with scipy.ndimage.zoom of order 1 (vit_jax/checkpoint.py).
    - "bicubic": torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=False), as MAE, DeiT and
      Swin resize: a = -0.75, half-pixel centres, edges clamped.
    - "bicubic_antialias": the same with antialias=True, as timm and open_clip resize: a = -0.5, and a kernel that grows
      with the step where the new grid is smaller.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown resampling method {method!r}{did_you_mean(method, METHODS)}")
    table, (height, width) = np.asarray(table), old_grid
    if table.shape[-2] != height * width:
        raise ConfigError(f"a table of {table.shape[-2]} rows does not lie on a grid of {height} x {width}")
    if tuple(old_grid) == tuple(new_grid):
        return table
    grid = table.astype(np.float64).reshape(*table.shape[:-2], height, width, table.shape[-1])
    rows, columns = (METHODS[method](old, new) for old, new in zip(old_grid, new_grid, strict=True))
    grid = np.einsum("Hh,...hwd,Ww->...HWd", rows, grid, columns, optimize=True)
    return grid.reshape(*table.shape[:-2], -1, table.shape[-1]).astype(table.dtype)


def bilinear_weights(old: int, new: int) -> np.ndarray:
    """float64[new, old]: linear interpolation with the first and last samples of both grids aligned."""
    position = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(old)))


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """float64[new, old]: cubic convolution (Keys, 1981) with a = -0.75, half-pixel centres and clamped edges."""
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(position).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        source = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), source), _keys(np.abs(position - first - tap)))
    return weights


def antialiased_bicubic_weights(old: int, new: int) -> np.ndarray:
    """float64[new, old]: as `bicubic_weights`, low-passed if new < old; samples past the edges are left out."""
    step = max(old / new, 1.0)
    centre = (np.arange(new) + 0.5) * (old / new)
    distance = np.abs(np.arange(old) + 0.5 - centre[:, None]) / step
    weights = _keys(distance, a=-0.5)
    return weights / weights.sum(1, keepdims=True)


def _keys(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


METHODS = {
    "bilinear": bilinear_weights,
    "bicubic": bicubic_weights,
    "bicubic_antialias": antialiased_bicubic_weights,
}
