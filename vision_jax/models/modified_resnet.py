"""CLIP's ModifiedResNet (Radford et al., 2021), after openai/CLIP's clip/model.py.

It is ResNet-D (He et al., 2019) with anti-aliased strides (Zhang, 2019), that is average pooling after convolutions of
stride 1, and attention in place of the final average pooling.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.layers import REMAT, attend, choose, head_initializer, normal_by_width, torch_bias, torch_kernel
from vision_jax.ops.attention import IMPLEMENTATIONS
from vision_jax.ops.platform import dense_product
from vision_jax.ops.resampling import resize_posemb
from vision_jax.ops.sharding import pin_batch


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy, 2015) of x [..., C] over all leading axes, as torch computes it.

    Statistics are float32: the batch's with train=True, else the running ones in the collection "batch_stats", whose
    update uses the unbiased variance. Under jit the batch is the global one, on any number of devices.
    """

    dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones
    momentum: float = 0.1  # share of the batch in the running statistics
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, train: bool = False):
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = running_mean.value, running_var.value
        x = x.astype(jnp.float32)
        if train:
            axes, count = tuple(range(x.ndim - 1)), x.size // channels
            mean = x.mean(axes)
            var = ((x - mean) ** 2).mean(axes)
            if not self.is_initializing():
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (var * (count / max(count - 1, 1)) - running_var.value)
        return ((x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias).astype(self.dtype)


def conv_norm(x, train: bool, name: str, features: int, kernel_size: int, stride: int = 1, dtype=jnp.float32, **init):
    """A convolution without bias, padded to keep the size at stride 1, then its norm: conv{name} and bn{name}."""
    pad = (kernel_size // 2,) * 2
    conv = nn.Conv(
        features,
        (kernel_size,) * 2,
        (stride,) * 2,
        padding=(pad, pad),
        use_bias=False,
        dtype=dtype,
        kernel_init=torch_kernel,
        name=f"conv{name}",
    )
    return BatchNorm(dtype, name=f"bn{name}", **init)(conv(x), train)


def average_pool(x, stride: int):
    return nn.avg_pool(x, (stride, stride), (stride, stride)) if stride > 1 else x


class Bottleneck(nn.Module):
    """1x1, 3x3, average pool, 1x1 to four times the features; x is pooled and projected if its shape differs."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        y = nn.relu(conv_norm(x, train, "1", self.features, 1, dtype=self.dtype))
        y = nn.relu(conv_norm(y, train, "2", self.features, 3, dtype=self.dtype))
        y = average_pool(y, self.stride)
        y = conv_norm(y, train, "3", 4 * self.features, 1, dtype=self.dtype, scale_init=nn.initializers.zeros)
        if x.shape[-1] != 4 * self.features or self.stride != 1:
            x = conv_norm(average_pool(x, self.stride), train, "_proj", 4 * self.features, 1, dtype=self.dtype)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Bottlenecks at one resolution; the first has the stride."""

    blocks: int
    features: int
    stride: int
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        unit = Bottleneck if self.remat == "none" else nn.remat(Bottleneck, static_argnums=(2,))
        for i in range(self.blocks):
            x = unit(self.features, self.stride if i == 0 else 1, self.dtype, name=f"units_{i}")(x, train)
        return pin_batch(x)


class AttentionPool(nn.Module):
    """Maps [B, h, w, C] to [B, C]: their mean, with its own position embedding, attends to itself and to every position.

    The official layer's output projection (its c_proj) is CLIP's projection here.
    """

    num_heads: int
    attention_impl: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, rows, columns, width = x.shape
        positions = self.param("pos_embed", normal_by_width, (1 + rows * columns, width))
        x = x.reshape(batch, rows * columns, width)
        mean = x.mean(1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        x = pin_batch(jnp.concatenate([mean, x], axis=1) + positions.astype(x.dtype))

        def heads(name, tokens):
            dense = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=normal_by_width,
                bias_init=torch_bias(width),
                dot_general=dense_product,
                name=name,
            )
            return dense(tokens).reshape(*tokens.shape[:2], self.num_heads, -1)

        out = attend(self, heads("query", x[:, :1]), heads("key", x), heads("value", x), impl=self.attention_impl)
        return out.reshape(batch, width)


class ModifiedResNet(nn.Module):
    """Images float[B, H, W, C], already normalised, to float32 logits [B, num_classes], or to features if that is 0.

    Features are float32[B, 32 * width] (with four stages), the output of the attention pool before its projection. Images
    of another size need `resize_params`. With train=True the collection "batch_stats" must be mutable. Raises ConfigError
    for fields that cannot work.
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # bottlenecks in each stage
    width: int = 64
    num_heads: int | None = None  # of the attention pool; None: heads of 64 features each
    head_init: str | float = "zeros"  # or "lecun_normal", or the standard deviation of a normal distribution
    head_bias_init: float = 0.0
    remat: str = "none"  # "dots" or "full": recompute whole bottlenecks, whose only products are convolutions
    attention_impl: str = "xla"
    dtype: Any = jnp.float32  # of activations; parameters, statistics and logits are float32

    def __post_init__(self):
        head_initializer(self.head_init)
        choose("remat", self.remat, REMAT)
        choose("attention_impl", self.attention_impl, IMPLEMENTATIONS)
        if not self.blocks or min(self.blocks) < 1:
            raise ConfigError(f"model field 'blocks' needs a positive number for each stage, got {self.blocks}")
        if self.width % 2 or self.features % self.heads:
            raise ConfigError(
                f"model field 'width'={self.width} must be even and its {self.features} features a multiple of num_heads={self.heads}"
            )
        super().__post_init__()

    @property
    def features(self) -> int:
        return 4 * self.width * 2 ** (len(self.blocks) - 1)

    @property
    def heads(self) -> int:
        return max(self.features // 64, 1) if self.num_heads is None else self.num_heads

    @nn.compact
    def __call__(self, images, train: bool = False):
        if min(self.grid(images.shape[1:3])) < 1:
            raise ConfigError(f"images of {images.shape[1]}x{images.shape[2]} vanish in {len(self.blocks)} stages")
        x = images.astype(self.dtype)
        for name, features, stride in (("1", self.width // 2, 2), ("2", self.width // 2, 1), ("3", self.width, 1)):
            x = nn.relu(conv_norm(x, train, name, features, 3, stride, self.dtype))
        x = pin_batch(average_pool(x, 2))
        for i, count in enumerate(self.blocks):
            stride = 1 if i == 0 else 2
            x = Stage(count, self.width * 2**i, stride, self.remat, self.dtype, name=f"stages_{i}")(x, train)
        x = AttentionPool(self.heads, self.attention_impl, self.dtype, name="attn_pool")(x).astype(jnp.float32)
        if not self.num_classes:
            return x
        bias = nn.initializers.constant(self.head_bias_init)
        return nn.Dense(self.num_classes, kernel_init=head_initializer(self.head_init), bias_init=bias, name="head")(x)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the last stage's maps for images of `size` (height, width) pixels."""
        rows, columns = ((side + 1) // 2 // 2 ** len(self.blocks) for side in size)
        return rows, columns

    def resize_params(
        self, params: Mapping, from_size: tuple[int, int], to_size: tuple[int, int], method: str = "bilinear"
    ) -> dict:
        """`params` for images of `to_size` (height, width) pixels, from params for images of `from_size`.

        The attention pool's positions are resampled on the host (`ops.resampling.resize_posemb`), the rest is unchanged.
        """
        pool = params["attn_pool"]
        table = resize_posemb(pool["pos_embed"], self.grid(from_size), self.grid(to_size), 1, method)
        return {**params, "attn_pool": {**pool, "pos_embed": table}}
