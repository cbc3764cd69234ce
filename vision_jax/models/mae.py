"""The masked autoencoder (He et al., 2022), after facebookresearch/mae: a ViT that sees a quarter of the patches."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.layers import ACTIVATIONS, INITS, REMAT, LayerNorm, Transformer, choose
from vision_jax.models.vit import ViT
from vision_jax.ops.attention import IMPLEMENTATIONS
from vision_jax.ops.losses import masked_mse
from vision_jax.ops.masking import random_masking, restore_tokens, take_tokens
from vision_jax.ops.patches import patch_statistics, patchify, unpatchify
from vision_jax.ops.platform import dense_product
from vision_jax.ops.posemb import sincos2d


class Decoder(nn.Module):
    """From the encoder's tokens [B, 1 + K, D], cls and visible patches, to pixels of all patches float32[B, N, outputs].

    block: fields of `layers.Block` besides `train`.
    """

    width: int
    depth: int
    outputs: int
    block: dict
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, latent, restore, grid: tuple[int, int]):
        """restore: int32[B, N] from `ops.masking.random_masking`; grid: rows and columns of the N patches."""
        init, dtype = INITS[self.block["weight_init"]], self.block["dtype"]
        dense = {"kernel_init": init.kernel, "dtype": dtype, "dot_general": dense_product}
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
        cls, visible = jnp.split(nn.Dense(self.width, **dense, name="embed")(latent), [1], axis=1)
        x = jnp.concatenate([cls, restore_tokens(visible, mask_token, restore)], axis=1)
        x = x + jnp.asarray(sincos2d(grid, self.width, prefix=1), dtype)
        transformer = Transformer(self.depth, self.block, scan=self.scan, remat=self.remat)
        nn.share_scope(self, transformer)
        x = LayerNorm(self.block["norm_eps"], dtype, name="norm")(transformer(x))
        return nn.Dense(self.outputs, **dense, name="pred")(x[:, 1:]).astype(jnp.float32)


class MAE(nn.Module):
    """Images float[B, H, W, C], already normalised, to (loss, prediction, mask): see `__call__`.

    The encoder's parameters are at the top level and named like those of a ViT with a class token, so that a ViT can load
    them; the decoder's are under "decoder". Positions are fixed: the same parameters take any image size that the patches
    divide. Raises ConfigError for sizes that cannot work.
    """

    patch_size: int | tuple[int, int] = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_dim: int = 2048
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False  # predict pixels normalised by their patch's mean and standard deviation
    pool: str = "token"  # what `encode` returns: see ViT
    act: str = "gelu"
    norm_eps: float = 1e-6
    scan: bool = False  # one compiled block for all layers of the encoder, and one for those of the decoder
    remat: str = "none"
    attention_impl: str = "xla"
    dtype: Any = jnp.float32

    def __post_init__(self):
        for field, known in (("act", ACTIVATIONS), ("remat", REMAT), ("attention_impl", IMPLEMENTATIONS)):
            choose(field, getattr(self, field), known)
        if self.width % self.num_heads or self.width % 4:
            raise ConfigError(
                f"model field 'width' must be a multiple of 4 and of num_heads={self.num_heads}, got {self.width}"
            )
        if self.pool not in ("token", "gap", "none"):
            raise ConfigError(f"model field 'pool' of a masked autoencoder is token, gap or none, got {self.pool!r}")
        if self.decoder_width % self.decoder_num_heads or self.decoder_width % 4:
            raise ConfigError(
                f"model field 'decoder_width' must be a multiple of 4 and of decoder_num_heads={self.decoder_num_heads},"
                f" got {self.decoder_width}"
            )
        if not 0 <= self.mask_ratio < 1:
            raise ConfigError(f"model field 'mask_ratio' must lie in [0, 1), got {self.mask_ratio}")
        super().__post_init__()

    def setup(self):
        shared = {
            "act": self.act,
            "norm_eps": self.norm_eps,
            "attention_impl": self.attention_impl,
            "dtype": self.dtype,
        }
        self.encoder = ViT(
            num_classes=0,
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            pool=self.pool,
            cls_token=True,
            posemb="sincos2d",
            weight_init="mae",
            scan=self.scan,
            remat=self.remat,
            **shared,
        )
        nn.share_scope(self, self.encoder)
        block = {"num_heads": self.decoder_num_heads, "mlp_dim": self.decoder_mlp_dim, "weight_init": "mae", **shared}
        channels, (p, q) = 3, self.encoder.patch
        self.decoder = Decoder(self.decoder_width, self.decoder_depth, p * q * channels, block, self.scan, self.remat)

    def __call__(self, images, noise=None):
        """(loss float32[], prediction float32[B, N, p * q * C], mask float32[B, N], 1 where a patch is masked).

        noise: float[B, N]; the patches with the lowest values are visible. By default, drawn from rngs={"masking": key}.
        The loss is the mean squared error of the masked patches' (normalised) pixels; a patch's values are ordered by
        row, column and channel.
        """
        losses, prediction, mask = self.losses(images, noise)
        return losses.mean(), prediction, mask

    def losses(self, images, noise=None):
        """Like `__call__`, with one loss per example, float32[B]."""
        prediction, mask = self.predict(images, noise)
        target = patchify(images, self.encoder.patch).astype(jnp.float32)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return masked_mse(prediction, target, mask), prediction, mask

    def predict(self, images, noise=None):
        """(prediction, mask) as in `__call__`."""
        patches, cls_position = self.encoder.embed_patches(images)
        if noise is None:
            noise = jax.random.uniform(self.make_rng("masking"), patches.shape[:2])
        kept, restore, mask = random_masking(noise, self.mask_ratio)
        latent = self.encoder.apply_blocks(self.encoder.add_prefix(take_tokens(patches, kept), cls_position))
        return self.decoder(latent, restore, self.encoder.grid(images.shape[1:3])), mask

    def encode(self, images):
        """Features of whole images, nothing masked: float32[B, D], or of all tokens float32[B, 1 + N, D] (pool="none")."""
        return self.encoder(images)

    def reconstruct(self, images, noise=None):
        """(images float32[B, H, W, C] with every patch as predicted, mask float32[B, N]), in the images' normalisation.

        With norm_pix_loss a prediction lacks the patch's mean and contrast: these are taken from the image.
        """
        prediction, mask = self.predict(images, noise)
        patch = self.encoder.patch
        if self.norm_pix_loss:
            mean, std = patch_statistics(patchify(images, patch))
            prediction = prediction * std + mean
        return unpatchify(prediction, self.encoder.grid(images.shape[1:3]), patch), mask

    def resize_params(self, params: Mapping, from_size, to_size, method: str = "") -> dict:
        """The parameters unchanged: none depends on the image size, so `method` is ignored."""
        return dict(params)
