"""The same ViT as ours, built from Flax's own MultiHeadDotProductAttention, LayerNorm and Dense: what ours is timed against."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class PeerBlock(nn.Module):
    num_heads: int
    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, deterministic=not train)(y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype)(y))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype)(y)


class PeerViT(nn.Module):
    """Images float[B, H, W, 3] to logits float32[B, num_classes], with a cls token and learned positions."""

    num_classes: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    dtype: Any = jnp.float32

    @classmethod
    def like(cls, model) -> "PeerViT":
        """The peer of one of our ViTs, of the same size and dtype."""
        return cls(
            **{name: getattr(model, name) for name in cls.__dataclass_fields__ if name not in ("parent", "name")}
        )

    @nn.compact
    def __call__(self, images, train: bool = False):
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.width, patch, patch, padding="VALID", dtype=self.dtype)(images)
        x = x.reshape(len(x), -1, self.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for _ in range(self.depth):
            x = PeerBlock(self.num_heads, self.mlp_dim, self.dtype)(x, train)
        x = nn.LayerNorm(dtype=self.dtype)(x)[:, 0]
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)
