"""Cuts images into patches."""

import jax.numpy as jnp

from vision_jax import limits
from vision_jax.errors import ConfigError


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(size, size) from one number; a pair as it is."""
    return (size, size) if isinstance(size, int) else tuple(size)


def grid_of(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in an image of `size` (height, width). Raises ConfigError unless patches divide it, into
    no more than `limits.TOKENS`."""
    if any(side < step or side % step for side, step in zip(size, patch, strict=True)):
        raise ConfigError(
            f"an image (or feature map) of {size[0]}x{size[1]} does not split into patches of patch_size {patch[0]}x{patch[1]}"
        )
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    if rows * columns > limits.TOKENS:
        raise ConfigError(
            f"an image of {size[0]}x{size[1]} has {rows * columns:,} patches of patch_size {patch[0]}x{patch[1]}"
        )
    return rows, columns


def patchify(images, patch: tuple[int, int]):
    """[B, H, W, C] to [B, N, p * q * C]: patches row by row; within a patch, row, column, then channel."""
    (rows, columns), (p, q) = grid_of(images.shape[1:3], patch), patch
    x = images.reshape(images.shape[0], rows, p, columns, q, images.shape[-1])
    return x.swapaxes(2, 3).reshape(images.shape[0], rows * columns, -1)


def unpatchify(patches, grid: tuple[int, int], patch: tuple[int, int]):
    """[B, N, p * q * C] back to images [B, H, W, C]: the inverse of `patchify`."""
    (rows, columns), (p, q) = grid, patch
    x = patches.reshape(len(patches), rows, columns, p, q, -1).swapaxes(2, 3)
    return x.reshape(len(patches), rows * p, columns * q, -1)


def patch_statistics(patches, eps: float = 1e-6):
    """Mean and standard deviation float32[B, N, 1] over the pixels of each patch [B, N, P], as MAE normalises targets.

    The variance is unbiased (over P - 1) and `eps` is added to it (MAE's models_mae.py).
    """
    patches = patches.astype(jnp.float32)
    variance = patches.var(-1, keepdims=True, ddof=min(1, patches.shape[-1] - 1))
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + eps)


def embed_patches(images, kernel):
    """[B, H, W, C] to [B, N, D]: a convolution with `kernel` [p, q, C, D] whose stride is the kernel's size."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("bnp,pd->bnd", patchify(images, kernel.shape[:2]), flat)
