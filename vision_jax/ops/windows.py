"""Shifted windows (Swin, Liu et al., 2021): cutting a map of tokens into windows, and where its tokens end up.

A map [B, H, W, ...] is padded at the bottom and the right to whole windows, rolled up and left by the shift and cut. The
windows at the far edges then hold tokens from up to four corners of the map, which are no neighbours: `window_regions`
tells them apart. Everything here that depends only on shapes is computed by numpy when a program is traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]  # (vertical, horizontal)


def fit_window(size: Pair, window: Pair, rule: str = "square") -> tuple[Pair, Pair]:
    """The window for a map of `size`, and the shift of its shifted blocks: half a window.

    A window that covers the map shrinks to it and does not shift. "square", as in the official code: if it covers the
    shorter side, both sides become the shorter side and neither shifts. "axis", as in timm: each axis on its own.
    """
    if rule == "square" and min(size) <= min(window):
        return (min(size), min(size)), (0, 0)
    fitted = tuple(min(side, length) for side, length in zip(size, window, strict=True))
    shift = tuple(0 if side <= length else length // 2 for side, length in zip(size, window, strict=True))
    return fitted, shift


def pad_to_multiple(x, sides: Pair):
    """[B, H, W, ...] padded with zeros at the bottom and right until `sides` divide its height and width."""
    padding = [(0, -length % side) for length, side in zip(x.shape[1:3], sides, strict=True)]
    return jnp.pad(x, [(0, 0), *padding, *[(0, 0)] * (x.ndim - 3)]) if any(map(any, padding)) else x


def cyclic_shift(x, shift: Pair):
    """[B, H, W, ...] rolled up and left by `shift`; undone by the negative shift."""
    return jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2)) if any(shift) else x


def partition(x, window: Pair):
    """[B, H, W, ...] to [B, n, p * q, ...]: windows (p, q), which divide the map, with their tokens row by row."""
    (batch, height, width, *rest), (p, q) = x.shape, window
    x = x.reshape(batch, height // p, p, width // q, q, *rest).swapaxes(2, 3)
    return x.reshape(batch, -1, p * q, *rest)


def unpartition(windows, size: Pair, window: Pair):
    """The map [B, H, W, ...] of `size` (H, W) whose `partition` is `windows` [B, n, p * q, ...]."""
    (batch, _, _, *rest), (height, width), (p, q) = windows.shape, size, window
    x = windows.reshape(batch, height // p, width // q, p, q, *rest).swapaxes(2, 3)
    return x.reshape(batch, height, width, *rest)


@functools.lru_cache
def window_regions(size: Pair, window: Pair, shift: Pair, padding_apart: bool = True) -> np.ndarray | None:
    """int32[n, p * q]: two tokens of a window belong together if their numbers are equal. None if all do.

    The map of `size` is padded to whole windows and rolled by `shift` before it is cut. Numbers differ across the seams
    from rolling; padding has its own number unless `padding_apart` is False (transformers' and mmdetection's Swin attend
    to it).
    """
    numbers: list[np.ndarray] = []
    for length, side, step in zip(size, window, shift, strict=True):
        padded = length + -length % side
        origin = (np.arange(padded) + step) % padded
        wrapped = np.arange(padded) >= padded - step
        numbers.append(np.where(padding_apart & (origin >= length), -1, wrapped))
    rows, columns = numbers[0][:, None], numbers[1][None, :]
    regions = np.where((rows < 0) | (columns < 0), -1, 2 * rows + columns).astype(np.int32)
    regions = partition(regions[None], window)[0]
    return regions if (regions != regions[:, :1]).any() else None


def region_mask(regions: np.ndarray) -> jax.Array:
    """bool[n, 1, N, N], True where a token (row) may see another (column) of its window, from `window_regions`.

    Compared at the point of use: the numbers are a constant of n * N integers, the mask would have n * N * N.
    """
    numbers = jnp.asarray(regions)[:, None]
    return numbers[..., :, None] == numbers[..., None, :]


def relative_bias(table):
    """[2p-1, 2q-1, h], a value per offset of query from key, to [h, N, N], a value per pair of tokens, N = p * q.

    The official code looks the rows up by an index; here only shapes change, since a gather, and a scatter in its
    backward pass, would be slower on accelerators.
    """
    by_rows = _by_pairs(table)  # [p, p, 2q-1, h]
    by_both = _by_pairs(by_rows.transpose(2, 0, 1, 3))  # [q, q, p, p, h]: columns and rows of query and key
    heads = by_both.transpose(4, 2, 0, 3, 1)
    tokens = heads.shape[1] * heads.shape[2]
    return heads.reshape(-1, tokens, tokens)


def _by_pairs(x):
    """[2n-1, ...] to [n, n, ...], whose [i, k] is x[i - k + n - 1].

    n copies of the reversed x lie end to end; read from the middle in rows one shorter than x, each starts a step earlier.
    """
    length, *rest = x.shape
    n = (length + 1) // 2
    if n == 1:
        return x[None]
    copies = jnp.broadcast_to(x[::-1], (n, length, *rest)).reshape(n * length, *rest)
    return copies[n - 1 : -1].reshape(n, length - 1, *rest)[:, :n]


def log_coordinates(window: Pair, pretrained: Pair | None = None) -> np.ndarray:
    """float32[2p-1, 2q-1, 2]: offsets on Swin V2's logarithmic scale (Liu et al., 2022, eq. 4), about -1 to 1.

    sign(c) log2(1 + |c|) / 3 with c = 8 * offset / (largest offset in the `pretrained` window, by default `window`).
    """
    p, q = window
    offsets = np.stack(np.meshgrid(np.arange(1 - p, p), np.arange(1 - q, q), indexing="ij"), axis=-1)
    scaled = offsets * 8 / np.maximum(np.array(pretrained or window) - 1, 1)
    return (np.sign(scaled) * np.log2(1 + np.abs(scaled)) / 3).astype(np.float32)
