"""Attention within shifted windows, as in Swin V1 (Liu et al., 2021) and V2 (Liu et al., 2022)."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.models.layers import INITS, attend
from vision_jax.ops.platform import dense_product
from vision_jax.ops.unit_vectors import unit_vectors
from vision_jax.ops.windows import (
    cyclic_shift,
    fit_window,
    log_coordinates,
    pad_to_multiple,
    partition,
    region_mask,
    relative_bias,
    unpartition,
    window_regions,
)

TABLE = "relative_position_bias_table"  # V1's parameter
COSINE_SCALE_MAX = 100.0  # of V2's logits
kernel_init = INITS["swin"].kernel


class WindowAttention(nn.Module):
    """Multi-head attention within the windows of a map [B, H, W, D], between tokens of the same region of the map.

    V1 adds a learned value per offset and head to the scaled logits; if the map makes the window smaller, the middle of
    the table is used. V2's logits are cosines times a learned scale per head, plus 16 sigmoid(MLP(log offset)).
    """

    num_heads: int
    window: tuple[int, int]
    shifted: bool
    window_rule: str = "square"
    mask_padding: bool = True
    version: int = 1
    pretrained_window: tuple[int, int] | None = None
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    impl: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        (batch, height, width, channels), size = x.shape, x.shape[1:3]
        window, shift = fit_window(size, self.window, self.window_rule)
        shift = shift if self.shifted else (0, 0)
        dense = functools.partial(
            nn.Dense, channels, dtype=self.dtype, kernel_init=kernel_init, dot_general=dense_product
        )
        x = cyclic_shift(pad_to_multiple(x, window), shift)
        padded = x.shape[1:3]
        biases = {"query": self.qkv_bias, "key": self.qkv_bias and self.version == 1, "value": self.qkv_bias}
        q, k, v = (
            partition(
                dense(use_bias=use_bias, name=name)(x).reshape(batch, *padded, self.num_heads, -1), window
            )  # [B, windows, tokens, heads, depth]
            for name, use_bias in biases.items()
        )
        if self.version == 2:
            q, k = unit_vectors(q, self.cosine_scale()), unit_vectors(k)
        regions = window_regions(size, window, shift, self.mask_padding)
        out = attend(
            self,
            q,
            k,
            v,
            bias=relative_bias(self.bias_table(window)),
            mask=None if regions is None else region_mask(regions),
            scale=1.0 if self.version == 2 else None,
            dropout_rate=self.dropout_rate,
            dropout_rng=self.make_rng("dropout") if train and self.dropout_rate > 0.0 else None,
            impl=self.impl,
        )
        out = unpartition(out.reshape(*out.shape[:3], channels), padded, window)
        out = cyclic_shift(out, (-shift[0], -shift[1]))[:, :height, :width]
        return dense(name="out")(out)

    def bias_table(self, window: tuple[int, int]):
        """float32[2p-1, 2q-1, heads] for the offsets in a `window` (p, q)."""
        if self.version == 1:
            shape = (*(2 * side - 1 for side in self.window), self.num_heads)
            table = self.param(TABLE, kernel_init, shape)
            (top, left), (p, q) = (full - side for full, side in zip(self.window, window, strict=True)), window
            return table[top : top + 2 * p - 1, left : left + 2 * q - 1]
        offsets = jnp.asarray(log_coordinates(window, self.pretrained_window))
        return 16.0 * jax.nn.sigmoid(OffsetMlp(self.num_heads, name="cpb_mlp")(offsets))

    def cosine_scale(self):
        """float32[heads, 1], the scale of V2's logits."""
        log_scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), (self.num_heads,))
        return jnp.exp(jnp.minimum(log_scale, math.log(COSINE_SCALE_MAX)))[:, None]


class OffsetMlp(nn.Module):
    """V2's continuous position bias: offsets float32[..., 2] to a value per head, float32[..., heads]."""

    num_heads: int
    width: int = 512

    @nn.compact
    def __call__(self, offsets):
        hidden = jax.nn.relu(nn.Dense(self.width, kernel_init=kernel_init, name="hidden")(offsets))
        return nn.Dense(self.num_heads, use_bias=False, kernel_init=kernel_init, name="out")(hidden)
