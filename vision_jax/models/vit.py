"""The Vision Transformer (Dosovitskiy et al., 2021), and the hybrid that cuts a ResNet's features into patches.

Defaults are those of google-research/vision_transformer. `embed`, `apply_blocks` and `pool_tokens` are separate methods for
models that use the encoder in other ways: `model.apply(variables, images, method=ViT.embed)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.models.layers import (
    ACTIVATIONS,
    INITS,
    REMAT,
    LayerNorm,
    MapHead,
    PatchEmbed,
    Transformer,
    choose,
    head_initializer,
)
from vision_jax.models.resnet import ResNetStem, stem_size
from vision_jax.ops.attention import IMPLEMENTATIONS
from vision_jax.ops.patches import as_pair, grid_of
from vision_jax.ops.posemb import sincos2d
from vision_jax.ops.resampling import resize_posemb
from vision_jax.ops.sharding import pin_batch

POOLS = ("token", "gap", "map", "none")
POSEMBS = ("none", "learn_1d", "learn_2d", "sincos2d", "sincos2d_bv", "learn_sincos2d", "relative")


class Positions(nn.Module):
    """Absolute positions float32[1, prefix + h * w, D] of a grid (h, w), or None; `prefix` is 1 if cls has a position.

    "learn_1d" learns a position for cls; the other tables have zeros there, like MAE's. "learn_sincos2d" starts a learned
    table from MAE's fixed one, as in MAE's fine-tuning.
    """

    kind: str
    width: int
    prefix: int
    init: Callable = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, grid: tuple[int, int]):
        rows, columns = grid
        if self.kind in ("none", "relative"):
            return None
        if self.kind == "learn_1d":
            return self.param("pos_embed", self.init, (1, self.prefix + rows * columns, self.width))
        if self.kind == "learn_sincos2d":
            return self.param("pos_embed", lambda _: jnp.asarray(sincos2d(grid, self.width, "mae", self.prefix)))
        if self.kind == "learn_2d":
            x = self.param("pos_embed_x", self.init, (columns, self.width // 2))
            y = self.param("pos_embed_y", self.init, (rows, self.width // 2))
            table = jnp.concatenate([jnp.tile(x, (rows, 1)), jnp.repeat(y, columns, axis=0)], axis=1)
        else:
            return jnp.asarray(
                sincos2d(grid, self.width, "mae" if self.kind == "sincos2d" else "big_vision", self.prefix)
            )
        return jnp.pad(table, [(self.prefix, 0), (0, 0)])[None]


class ViT(nn.Module):
    """Images float[B, H, W, C], already normalised, to float32 logits [B, num_classes].

    With num_classes=0, returns the features [B, D] (with pool="none": of all tokens, [B, N, D]), also in float32. The
    function is deterministic unless train=True, which takes rngs={"dropout": key} if any rate is above 0. Raises
    ConfigError for sizes and choices that cannot work.
    """

    num_classes: int = 1000
    patch_size: int | tuple[int, int] = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    stem: tuple[int, ...] | None = None  # hybrids: bottlenecks in each stage of a ResNetStem; (): its root only
    pool: str = "token"  # "token": cls; "gap": mean of the patches; "map": attention; "none": all tokens
    cls_token: bool | None = None  # None: if pool is "token"
    num_registers: int = 0  # learned tokens without positions after cls (Darcet et al., 2024)
    posemb: str = "learn_1d"  # see POSEMBS
    posemb_cls: bool = True  # False: positions are added to patches only, as in DeiT III and big_vision
    patch_bias: bool = True
    pre_norm: bool = False  # `norm_pre`, a norm before the first block, as in CLIP
    representation_size: int | None = None  # width of a Dense with tanh before the head
    dropout_rate: float = 0.0  # after positions, attention, activation and MLP
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0  # of the last block, growing linearly from 0
    layer_scale_init: float | None = None
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    norm_pooled: bool = (
        False  # `fc_norm`, a norm of the pooled features instead of one of all tokens, as in MAE's fine-tuning
    )
    head_batch_norm: bool = False  # standardise the head's input over the batch, as in MAE's linear probe
    qkv_bias: bool = True
    weight_init: str = "google"  # which code's initial parameters: see INITS in models.layers
    head_init: str | float = "zeros"  # or "lecun_normal", or the standard deviation of a normal distribution
    head_bias_init: float = 0.0
    scan: bool = False  # one compiled block for all layers; parameters gain a layer axis (see models.stacking)
    remat: str = "none"  # "dots": recompute everything but products with parameters; "full": whole blocks
    attention_impl: str = "xla"
    dtype: Any = jnp.float32  # of activations; parameters, norms' and softmax's statistics and logits are float32

    def __post_init__(self):
        for field, known in (
            ("pool", POOLS),
            ("posemb", POSEMBS),
            ("act", ACTIVATIONS),
            ("remat", REMAT),
            ("weight_init", INITS),
            ("attention_impl", IMPLEMENTATIONS),
        ):
            choose(field, getattr(self, field), known)
        head_initializer(self.head_init)
        if self.width % self.num_heads:
            raise ConfigError(f"model field 'width' must be a multiple of num_heads={self.num_heads}, got {self.width}")
        if self.pool == "token" and self.cls_token is False:
            raise ConfigError(
                "model field 'pool' is 'token' but cls_token is False; pool 'gap' or 'map' needs no cls token"
            )
        if self.norm_pooled and self.pool == "none":
            raise ConfigError(
                "model field 'norm_pooled' asks for a norm of pooled features, which pool='none' does not have"
            )
        if ("sincos2d" in self.posemb and self.width % 4) or (self.posemb == "learn_2d" and self.width % 2):
            raise ConfigError(
                f"model field 'width'={self.width} does not halve or quarter as posemb='{self.posemb}' needs"
            )
        super().__post_init__()

    @property
    def has_cls(self) -> bool:
        return self.pool == "token" if self.cls_token is None else self.cls_token

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches: cls, then the registers."""
        return self.has_cls + self.num_registers

    @property
    def patch(self) -> tuple[int, int]:
        return as_pair(self.patch_size)

    def setup(self):
        if self.stem is not None:
            self.backbone = ResNetStem(self.stem, dtype=self.dtype)
        init = INITS[self.weight_init]
        self.patch_embed = PatchEmbed(self.patch, self.width, self.patch_bias, self.dtype, self.weight_init)
        self.positions = Positions(self.posemb, self.width, int(self.has_cls and self.posemb_cls), init.positions)
        if self.has_cls:
            self.cls = self.param("cls_token", init.cls, (1, 1, self.width))
        if self.num_registers:
            self.registers = self.param("registers", nn.initializers.normal(0.02), (1, self.num_registers, self.width))
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.pre_norm:
            self.norm_pre = LayerNorm(self.norm_eps, self.dtype)
        block = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "act": self.act,
            "norm_eps": self.norm_eps,
            "qkv_bias": self.qkv_bias,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "layer_scale_init": self.layer_scale_init,
            "relative": self.posemb == "relative",
            "num_prefix": self.num_prefix,
            "attention_impl": self.attention_impl,
            "dtype": self.dtype,
            "weight_init": self.weight_init,
        }
        self.transformer = Transformer(self.depth, block, self.drop_path_rate, self.scan, self.remat)
        if self.norm_pooled:
            self.fc_norm = LayerNorm(self.norm_eps)
        else:
            self.norm = LayerNorm(self.norm_eps, self.dtype)
        if self.pool == "map":
            self.map_head = MapHead(
                self.num_heads, self.mlp_dim, self.act, self.norm_eps, self.attention_impl, self.dtype
            )
        if self.representation_size:
            self.pre_logits = nn.Dense(self.representation_size)
        if self.head_batch_norm:
            self.head_norm = nn.BatchNorm(momentum=0.9, epsilon=1e-6, use_bias=False, use_scale=False)
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            self.head = nn.Dense(self.num_classes, kernel_init=head_initializer(self.head_init), bias_init=bias)
        # Their parameters are at the same level as ours, not one below.
        nn.share_scope(self, self.positions)
        nn.share_scope(self, self.transformer)

    def __call__(self, images, train: bool = False):
        x = self.pool_tokens(self.apply_blocks(self.embed(images, train), train))
        if self.representation_size:
            x = jnp.tanh(self.pre_logits(x))
        if not self.num_classes:
            return x
        return self.head(self.head_norm(x, use_running_average=not train) if self.head_batch_norm else x)

    def embed_patches(self, images):
        """Patches [B, N, D] with positions but without dropout, and the position [1, 1, D] of cls if it has one."""
        x = images if self.stem is None else self.backbone(images)
        positions = self.positions(grid_of(x.shape[1:3], self.patch))
        x = self.patch_embed(x)
        if positions is None:
            return x, None
        cls, patches = jnp.split(positions.astype(self.dtype), [positions.shape[1] - x.shape[1]], axis=1)
        return pin_batch(x + patches), cls if cls.shape[1] else None

    def add_prefix(self, patches, cls_position=None):
        """[B, M, D] to [B, prefix + M, D]: cls, with its position, and the registers in front of any patches."""
        prefix = []
        if self.has_cls:
            prefix.append(self.cls if cls_position is None else self.cls + cls_position)
        if self.num_registers:
            prefix.append(self.registers)
        tokens = [jnp.broadcast_to(x, (len(patches), *x.shape[1:])).astype(patches.dtype) for x in prefix]
        return pin_batch(jnp.concatenate([*tokens, patches], axis=1) if tokens else patches)

    def embed(self, images, train: bool = False):
        """The input of the first block: [B, prefix + N, D], cls, registers and patches with positions and dropout."""
        x = self.dropout(self.add_prefix(*self.embed_patches(images)), deterministic=not train)
        return self.norm_pre(x) if self.pre_norm else x

    def apply_blocks(self, tokens, train: bool = False):
        """All blocks and the final norm: [B, M, D] to [B, M, D], for any number of tokens."""
        x = self.transformer(tokens, train=train)
        return x if self.norm_pooled else self.norm(x)

    def pool_tokens(self, tokens):
        """[B, prefix + N, D] to float32[B, D], or float32[B, prefix + N, D] with pool="none"."""
        x = pin_batch(tokens)
        if self.pool == "token":
            x = x[:, 0]
        elif self.pool == "map":
            x = self.map_head(x)
        elif self.pool == "gap":
            x = x[:, self.num_prefix :].mean(1, dtype=jnp.float32)
        x = x.astype(jnp.float32)
        return self.fc_norm(x) if self.norm_pooled else x

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of `size` (height, width) pixels."""
        return grid_of(size if self.stem is None else stem_size(size, self.stem), self.patch)

    def resize_params(
        self, params: Mapping, from_size: tuple[int, int], to_size: tuple[int, int], method: str = "bilinear"
    ) -> dict:
        """`params` for images of `to_size` (height, width) pixels, from params for images of `from_size`.

        Learned position tables are resampled on the host (`ops.resampling.resize_posemb`), the rest is unchanged. Raises
        ConfigError for relative positions, whose offsets in a row of patches mean nothing on another grid.
        """
        old, new = self.grid(from_size), self.grid(to_size)
        if old == new:
            return dict(params)
        if self.posemb == "relative":
            raise ConfigError(f"posemb='relative' cannot be resized from a grid of {old} patches to {new}")
        resized = dict(params)
        if "pos_embed" in params:
            table = np.asarray(params["pos_embed"])
            resized["pos_embed"] = resize_posemb(table, old, new, table.shape[1] - old[0] * old[1], method)
        for name, axis in (("pos_embed_y", 0), ("pos_embed_x", 1)):
            if name in params:
                resized[name] = resize_posemb(params[name], (old[axis], 1), (new[axis], 1), 0, method)
        return resized
