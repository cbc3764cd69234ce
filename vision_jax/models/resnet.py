"""The ResNet with standardised convolutions and GroupNorm of vision_transformer (vit_jax/models_resnet.py).

Post-activation bottlenecks (He et al., 2016) with the stride on the 3x3 convolution, weight standardisation (Qiao et
al., 2019) and GroupNorm of 32 groups (Wu & He, 2018): the stem of the hybrid ViTs and a classifier of its own. Padding
is TensorFlow's SAME.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.layers import head_initializer
from vision_jax.ops.sharding import pin_batch


def standardize(kernel, eps: float = 1e-5):
    """(w - mean) / (std + eps) of a kernel [kh, kw, I, O], each output channel over kh, kw and I."""
    centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centred / (jnp.sqrt((centred**2).mean((0, 1, 2), keepdims=True)) + eps)


class StdConv(nn.Module):
    """A convolution without bias whose kernel is standardised, in float32, before every use."""

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = standardize(self.param("kernel", nn.initializers.lecun_normal(), shape)).astype(self.dtype)
        return nn.Conv(
            self.features, shape[:2], (self.stride,) * 2, padding="SAME", use_bias=False, dtype=self.dtype
        ).apply({"params": {"kernel": kernel}}, x)


def group_norm(name: str, dtype: Any, **init) -> nn.GroupNorm:
    return nn.GroupNorm(32, epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name, **init)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the features; x is projected if its shape differs."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        y = StdConv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(group_norm("gn1", self.dtype)(y))
        y = StdConv(self.features, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(group_norm("gn2", self.dtype)(y))
        y = StdConv(4 * self.features, 1, dtype=self.dtype, name="conv3")(y)
        y = group_norm("gn3", self.dtype, scale_init=nn.initializers.zeros)(y)
        if x.shape[-1] != 4 * self.features or self.stride != 1:
            x = StdConv(4 * self.features, 1, self.stride, dtype=self.dtype, name="conv_proj")(x)
            x = group_norm("gn_proj", self.dtype)(x)
        return nn.relu(x + y)


class ResNetStage(nn.Module):
    """Bottlenecks at one resolution; the first has the stride."""

    blocks: int
    features: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for i in range(self.blocks):
            x = Bottleneck(self.features, self.stride if i == 0 else 1, self.dtype, name=f"units_{i}")(x)
        return x


class ResNetStem(nn.Module):
    """Images [B, H, W, C] to the last stage's features: a root of stride 4, then `blocks` bottlenecks per stage.

    The first stage keeps the resolution, each further one halves it and doubles the features; without stages, the root's
    `width` features are the result.
    """

    blocks: tuple[int, ...]
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        x = StdConv(self.width, 7, 2, dtype=self.dtype, name="conv_root")(images.astype(self.dtype))
        x = nn.relu(group_norm("gn_root", self.dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, count in enumerate(self.blocks):
            x = ResNetStage(count, self.width * 2**i, 1 if i == 0 else 2, self.dtype, name=f"stages_{i}")(x)
        return x


def stem_size(size: tuple[int, int], blocks: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of `ResNetStem`'s features for images of `size`."""
    stride = 4 * 2 ** max(len(blocks) - 1, 0)
    return -(-size[0] // stride), -(-size[1] // stride)


class ResNet(nn.Module):
    """Images float[B, H, W, C], already normalised, to float32 logits [B, num_classes], or to features if that is 0."""

    num_classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    head_init: str | float = "zeros"
    head_bias_init: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        head_initializer(self.head_init)
        if self.width % 32:
            raise ConfigError(f"model field 'width' must be a multiple of 32, GroupNorm's groups; got {self.width}")
        super().__post_init__()

    def setup(self):
        self.backbone = ResNetStem(self.blocks, self.width, self.dtype)
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            self.head = nn.Dense(self.num_classes, kernel_init=head_initializer(self.head_init), bias_init=bias)
        nn.share_scope(self, self.backbone)

    def __call__(self, images, train: bool = False):
        """`train` changes nothing: there is neither dropout nor a running average."""
        features = pin_batch(self.backbone(images)).astype(jnp.float32).mean((1, 2))
        return self.head(features) if self.num_classes else features

    def resize_params(self, params, from_size, to_size, method: str = "") -> dict:
        """The parameters unchanged: none depends on the image size, so `method` is ignored."""
        return params
