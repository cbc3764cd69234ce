"""Cutting images into patches."""

import jax.numpy as jnp

from vision_jax.errors import ConfigError


def grid_of(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in an image of `size` (height, width). ConfigError unless the patch divides it."""
    if any(side < step or side % step for side, step in zip(size, patch, strict=True)):
        raise ConfigError(
            f"an image (or feature map) of {size[0]}x{size[1]} does not split into patches of patch_size {patch[0]}x{patch[1]}"
        )
    return size[0] // patch[0], size[1] // patch[1]


def patchify(images, patch: tuple[int, int]):
    """[B, H, W, C] to [B, N, p * q * C]: patches row by row, in a patch row, column, then channel."""
    (rows, columns), (p, q) = grid_of(images.shape[1:3], patch), patch
    x = images.reshape(images.shape[0], rows, p, columns, q, images.shape[-1])
    return x.swapaxes(2, 3).reshape(images.shape[0], rows * columns, -1)


def embed_patches(images, kernel):
    """[B, H, W, C] to [B, N, D]: a convolution with `kernel` [p, q, C, D] whose stride is the kernel's size."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("bnp,pd->bnd", patchify(images, kernel.shape[:2]), flat)
