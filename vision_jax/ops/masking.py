"""Random masking of tokens (MAE, He et al., 2022): which are kept, and how to put all back in place."""

import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.ops.sharding import pin_batch


def num_kept(num_tokens: int, mask_ratio: float) -> int:
    """How many of `num_tokens` stay visible, rounded down as in MAE's code. Raises ConfigError if none does."""
    kept = int(num_tokens * (1 - mask_ratio))
    if kept < 1:
        raise ConfigError(f"model field 'mask_ratio'={mask_ratio} leaves none of {num_tokens} patches visible")
    return kept


def random_masking(noise, mask_ratio: float):
    """Keeps the tokens with the least noise [B, N].

    Returns kept int32[B, K], the visible tokens' numbers in order of their noise; restore int32[B, N], each token's
    position in the sequence of visible tokens followed by masked ones; mask float32[B, N], 1 for masked tokens.
    """
    kept = num_kept(noise.shape[1], mask_ratio)
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    return shuffle[:, :kept], restore, (restore >= kept).astype(jnp.float32)


def take_tokens(tokens, index):
    """[B, K, D]: from tokens [B, N, D], those that index int[B, K] selects in each sample."""
    return pin_batch(jnp.take_along_axis(tokens, index[..., None], axis=1))


def restore_tokens(visible, mask_token, restore):
    """[B, N, D]: visible tokens [B, K, D] in their positions, the mask token [1, 1, D] in all others."""
    masked = restore.shape[1] - visible.shape[1]
    filler = jnp.broadcast_to(mask_token.astype(visible.dtype), (len(visible), masked, visible.shape[-1]))
    return take_tokens(jnp.concatenate([visible, filler], axis=1), restore)
