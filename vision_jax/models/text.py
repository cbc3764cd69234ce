"""CLIP's text transformer (Radford et al., 2021), after openai/CLIP: tokens in, the features of a whole text out."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.layers import Initializers, LayerNorm, Transformer, torch_bias
from vision_jax.ops.masking import take_tokens
from vision_jax.ops.sharding import pin_batch, replicate

POOLS = ("end", "last")


def text_initializers(width: int, depth: int) -> Initializers:
    """Standard deviations as in `CLIP.initialize_parameters` (openai/CLIP, clip/model.py), torch's biases elsewhere."""
    normal = nn.initializers.normal
    residual = width**-0.5 * (2 * depth) ** -0.5  # for the 2 * depth layers that add to the residual stream
    return Initializers(normal(residual), normal(width**-0.5), fc1=normal((2 * width) ** -0.5), mlp_bias=torch_bias)


class TextTransformer(nn.Module):
    """Tokens int32[B, L] to features float32[B, width]: the normalised last layer at one token of each text.

    Takes texts of up to `context_length` tokens and raises ConfigError for longer ones. An id outside the vocabulary gives
    NaN. With causal=True a token sees only itself and those before it, so that the end token sees no padding.
    """

    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int | None = None  # None: 4 * width
    act: str = "quick_gelu"
    causal: bool = True
    pool: str = "end"  # the token that is read: "end", the (first) one with the largest id, or "last"
    norm_eps: float = 1e-5
    scan: bool = False
    remat: str = "none"
    attention_impl: str = "xla"
    dtype: Any = jnp.float32

    def setup(self):
        normal = nn.initializers.normal
        self.token_embedding = self.param("token_embedding", normal(0.02), (self.vocab_size, self.width))
        self.pos_embed = self.param("pos_embed", normal(0.01), (self.context_length, self.width))
        block = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim or 4 * self.width,
            "act": self.act,
            "norm_eps": self.norm_eps,
            "attention_impl": self.attention_impl,
            "dtype": self.dtype,
            "weight_init": text_initializers(self.width, self.depth),
        }
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.norm = LayerNorm(self.norm_eps, self.dtype)
        nn.share_scope(self, self.transformer)

    def __call__(self, tokens, train: bool = False):
        x = self.apply_blocks(tokens, train)
        if self.pool == "last":
            return x[:, -1].astype(jnp.float32)
        return take_tokens(x, jnp.argmax(tokens, axis=-1, keepdims=True))[:, 0].astype(jnp.float32)

    def embed(self, tokens):
        """The input of the first block: [B, L, width], the tokens' embeddings with positions."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ConfigError(
                f"texts of {length} tokens are longer than model field 'context_length'={self.context_length}"
            )
        x = jnp.take(replicate(self.token_embedding), tokens, axis=0) + self.pos_embed[:length]
        return pin_batch(x.astype(self.dtype))

    def apply_blocks(self, tokens, train: bool = False):
        """The normalised last layer at every token, [B, L, width]."""
        x, length = self.embed(tokens), tokens.shape[1]
        mask = jnp.tril(jnp.ones((length, length), bool)) if self.causal else None
        return self.norm(self.transformer(x, mask, train))
