"""The Swin Transformer, V1 (Liu et al., 2021) and V2 (Liu et al., 2022): attention in windows that shift.

Defaults are those of microsoft/Swin-Transformer. Maps stay [B, H, W, C] from block to block, of any size: see `Swin`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.errors import ConfigError
from vision_jax.models.layers import (
    ACTIVATIONS,
    REMAT,
    LayerNorm,
    Mlp,
    PatchEmbed,
    choose,
    drop_path,
    head_initializer,
)
from vision_jax.models.window_attention import TABLE, WindowAttention, kernel_init
from vision_jax.ops.attention import IMPLEMENTATIONS
from vision_jax.ops.patches import as_pair
from vision_jax.ops.platform import dense_product
from vision_jax.ops.resampling import resize_grid
from vision_jax.ops.sharding import pin_batch
from vision_jax.ops.windows import pad_to_multiple

WINDOW_RULES = ("square", "axis")


class SwinBlock(nn.Module):
    """[B, H, W, C] to the same shape. V1: x + attention(norm1(x)), x + mlp(norm2(x)); V2 normalises after each branch.

    attention: fields of `WindowAttention` besides `shifted`.
    """

    mlp_dim: int
    attention: dict
    shifted: bool
    act: str = "gelu"
    norm_eps: float = 1e-5
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x, drop_path_rate=None):
        dtype, post_norm = self.attention["dtype"], self.attention["version"] == 2
        scale_init = nn.initializers.zeros if post_norm else nn.initializers.ones  # V2 starts as the identity

        def residual(x, branch, norm):
            y = norm(branch(x)) if post_norm else branch(norm(x))
            return x + (y if drop_path_rate is None else drop_path(y, drop_path_rate, self.make_rng("dropout")))

        def attend(x):
            x = WindowAttention(**self.attention, shifted=self.shifted, name="attn")(x, train=self.train)
            return nn.Dropout(self.dropout_rate)(x, deterministic=not self.train)

        mlp = Mlp(self.mlp_dim, self.act, self.dropout_rate, dtype, "swin", name="mlp")
        norm1, norm2 = (LayerNorm(self.norm_eps, dtype, scale_init, name=name) for name in ("norm1", "norm2"))
        x = residual(x, attend, norm1)
        return residual(x, functools.partial(mlp, train=self.train), norm2)


class PatchMerging(nn.Module):
    """[B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), 2C]: four neighbours side by side, normalised and projected.

    The neighbours' order is (0, 0), (1, 0), (0, 1), (1, 1) in (row, column). V2 projects first, then normalises.
    """

    norm_eps: float = 1e-5
    version: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = pad_to_multiple(x, (2, 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = pin_batch(x.reshape(batch, height // 2, width // 2, 4 * channels))
        norm = LayerNorm(self.norm_eps, self.dtype, name="norm")
        reduction = nn.Dense(
            2 * channels,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kernel_init,
            dot_general=dense_product,
            name="reduction",
        )
        return norm(reduction(x)) if self.version == 2 else reduction(norm(x))


class SwinStage(nn.Module):
    """`depth` blocks, every second one shifted, then the layer that halves the map for the next stage.

    The blocks are unrolled as blocks_0 ... or scanned in pairs as one `blocks`, whose parameters have a leading axis of
    size `depth`, as everywhere; with an odd number, the last one runs after the scan. block: fields of `SwinBlock`
    besides `shifted` and `train`.
    """

    depth: int
    block: dict
    scan: bool = False
    remat: str = "none"
    merges: bool = True

    @nn.compact
    def __call__(self, x, rates=None, train: bool = False):
        """x [B, H, W, C], drop path rates float[depth] or None: the map after the blocks, and merged (None: not merged)."""
        block_class = SwinBlock
        if self.remat != "none":
            block_class = nn.remat(SwinBlock, prevent_cse=not self.scan, policy=REMAT[self.remat])
        x = pin_batch(x)
        if self.scan:
            x = self.scanned(block_class, x, rates, train)
        else:
            for i in range(self.depth):
                block = block_class(**self.block, shifted=i % 2 == 1, train=train, name=f"blocks_{i}")
                x = block(x, None if rates is None else rates[i])
        x = pin_batch(x)
        if not self.merges:
            return x, None
        attention = self.block["attention"]
        merge = PatchMerging(self.block["norm_eps"], attention["version"], attention["dtype"], name="downsample")
        return x, merge(x)

    def scanned(self, block_class, x, rates, train: bool):
        pair = [block_class(**self.block, shifted=shifted, train=train, parent=None) for shifted in (False, True)]
        plain = SwinBlock(**self.block, shifted=False, parent=None)

        def init(rng):
            return jax.vmap(lambda key: plain.init(key, x)["params"])(jax.random.split(rng, self.depth))

        keys = jax.random.split(self.make_rng("dropout"), self.depth) if train and self.has_rng("dropout") else None
        layers = (self.param("blocks", init), rates, keys)

        def apply(block, x, layer):
            params, rate, key = layer
            return block.apply({"params": params}, x, rate, rngs=None if key is None else {"dropout": key})

        def two_blocks(x, layers):
            for i, block in enumerate(pair):
                x = apply(block, x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
            return x, None

        pairs = self.depth // 2
        in_pairs = jax.tree.map(lambda leaf: leaf[: 2 * pairs].reshape(pairs, 2, *leaf.shape[1:]), layers)
        x, _ = jax.lax.scan(two_blocks, x, in_pairs)
        return apply(pair[0], x, jax.tree.map(lambda leaf: leaf[-1], layers)) if self.depth % 2 else x


class Swin(nn.Module):
    """Images float[B, H, W, C], already normalised, to float32 logits [B, num_classes], or to features [B, D] if that is 0.

    The same parameters take images of any height and width: images are padded to whole patches, maps to whole windows and
    to even sides before merging, always at the bottom and the right with zeros, and a window that covers its map
    shrinks to it (`ops.windows.fit_window`). With features_only the result is instead the pyramid for detection and
    segmentation: each stage's map [B, H / 4, W / 4, C], [B, H / 8, W / 8, 2C], ..., in float32, each through its own
    norm. `features` returns these maps without norms, for any Swin.

    The function is deterministic unless train=True, which takes rngs={"dropout": key} if any rate is above 0. Raises
    ConfigError for fields that cannot work.
    """

    num_classes: int = 1000
    patch_size: int | tuple[int, int] = 4
    width: int = 96  # of the first stage; doubles with each further one
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int | tuple[int, int] = 7
    version: int = 1
    pretrained_window: int | tuple[int, ...] | None = None  # V2: the window, or one per stage, used in pre-training
    window_rule: str = "square"  # how a window shrinks to a smaller map: see ops.windows.fit_window
    mask_padding: bool = (
        True  # False: tokens see the padding of their window, as in transformers' and mmdetection's Swin
    )
    mlp_ratio: float = 4.0
    features_only: bool = False
    dropout_rate: float = 0.0  # after the patch embedding, attention, activation and MLP
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0  # of the last block, growing linearly from 0 through all stages
    act: str = "gelu"
    norm_eps: float = 1e-5
    qkv_bias: bool = True
    head_init: str | float = 0.02  # "zeros", "lecun_normal", or the standard deviation of a normal distribution
    head_bias_init: float = 0.0
    scan: bool = False  # one compiled pair of blocks for all pairs of a stage (see models.stacking)
    remat: str = "none"  # "dots": recompute everything but products with parameters; "full": whole blocks
    attention_impl: str = "xla"
    dtype: Any = jnp.float32  # of activations; parameters, norms' and softmax's statistics and logits are float32

    def __post_init__(self):
        for field, known in (
            ("act", ACTIVATIONS),
            ("remat", REMAT),
            ("attention_impl", IMPLEMENTATIONS),
            ("window_rule", WINDOW_RULES),
        ):
            choose(field, getattr(self, field), known)
        head_initializer(self.head_init)
        if self.version not in (1, 2):
            raise ConfigError(f"model field 'version' must be 1 or 2, got {self.version}")
        if not self.depths or len(self.depths) != len(self.num_heads) or min(self.depths) < 1:
            raise ConfigError(
                f"model fields 'depths' and 'num_heads' need a positive number for each stage, got {self.depths} and {self.num_heads}"
            )
        for stage, heads in enumerate(self.num_heads):
            if self.width * 2**stage % heads:
                raise ConfigError(
                    f"model field 'num_heads'={self.num_heads}: stage {stage} has width {self.width * 2**stage}, no multiple of {heads}"
                )
        if min(as_pair(self.window)) < 1 or (self.window_rule == "square" and len(set(as_pair(self.window))) > 1):
            raise ConfigError(
                f"model field 'window'={self.window} must be positive, and square with window_rule='square'"
            )
        if self.pretrained_window is not None and (
            self.version == 1 or len(self.pretrained_windows) != len(self.depths) or min(self.pretrained_windows) < 1
        ):
            raise ConfigError(
                f"model field 'pretrained_window'={self.pretrained_window} belongs to version 2 and is one window or one for each of {len(self.depths)} stages"
            )
        super().__post_init__()

    @property
    def pretrained_windows(self) -> tuple:
        """One window per stage."""
        return (
            self.pretrained_window
            if isinstance(self.pretrained_window, tuple)
            else (self.pretrained_window,) * len(self.depths)
        )

    def setup(self):
        self.patch_embed = PatchEmbed(as_pair(self.patch_size), self.width, dtype=self.dtype, weight_init="swin")
        self.patch_norm = LayerNorm(self.norm_eps, self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)
        norm = functools.partial(LayerNorm, self.norm_eps, self.dtype)
        self.stages = [
            SwinStage(depth, self.block(s), self.scan, self.remat, merges=s < len(self.depths) - 1)
            for s, depth in enumerate(self.depths)
        ]
        if self.features_only:
            self.feature_norms = [norm() for _ in self.depths]
            return
        self.norm = norm()
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            self.head = nn.Dense(self.num_classes, kernel_init=head_initializer(self.head_init), bias_init=bias)

    def block(self, stage: int) -> dict:
        """Fields of that stage's blocks."""
        pretrained = self.pretrained_windows[stage]
        return {
            "mlp_dim": int(self.width * 2**stage * self.mlp_ratio),
            "act": self.act,
            "norm_eps": self.norm_eps,
            "dropout_rate": self.dropout_rate,
            "attention": {
                "num_heads": self.num_heads[stage],
                "window": as_pair(self.window),
                "window_rule": self.window_rule,
                "mask_padding": self.mask_padding,
                "version": self.version,
                "pretrained_window": None if pretrained is None else as_pair(pretrained),
                "qkv_bias": self.qkv_bias,
                "dropout_rate": self.attention_dropout_rate,
                "impl": self.attention_impl,
                "dtype": self.dtype,
            },
        }

    def __call__(self, images, train: bool = False):
        maps = self.features(images, train)
        if self.features_only:
            return [norm(x).astype(jnp.float32) for norm, x in zip(self.feature_norms, maps, strict=True)]
        x = self.norm(maps[-1]).mean((1, 2), dtype=jnp.float32)
        return self.head(x) if self.num_classes else x

    def embed(self, images, train: bool = False):
        """The input of the first block: [B, ceil(H / patch), ceil(W / patch), width]."""
        images = pad_to_multiple(images, as_pair(self.patch_size))
        rows, columns = (side // step for side, step in zip(images.shape[1:3], as_pair(self.patch_size), strict=True))
        x = self.dropout(self.patch_norm(self.patch_embed(images)), deterministic=not train)
        return pin_batch(x.reshape(len(x), rows, columns, self.width))

    def features(self, images, train: bool = False) -> list:
        """The output [B, H_s, W_s, C_s] of each stage's blocks, before merging and before any norm."""
        rates = None
        if train and self.drop_path_rate > 0.0:
            rates = jnp.linspace(0.0, self.drop_path_rate, sum(self.depths))
        following, maps = self.embed(images, train), []
        for s, stage in enumerate(self.stages):
            first = sum(self.depths[:s])
            x, following = stage(following, None if rates is None else rates[first : first + self.depths[s]], train)
            maps.append(x)
        return maps

    def resize_params(self, params: Mapping, from_size, to_size, method: str = "") -> dict:
        """`params` for this model's window: V1's tables are resampled bicubically, like in the official loader.

        Nothing depends on the image sizes, or on `method`, which is for absolute positions. V2's biases follow from its
        `pretrained_window`.
        """
        shape = tuple(2 * side - 1 for side in as_pair(self.window))
        flat = flatten_dict(params, sep="/")
        for name, table in flat.items():
            if name.endswith(TABLE) and table.shape[-3:-1] != shape:
                rows = np.asarray(table).reshape(*table.shape[:-3], -1, table.shape[-1])
                resized = resize_grid(rows, table.shape[-3:-1], shape, "bicubic")
                flat[name] = resized.reshape(*table.shape[:-3], *shape, -1)
        return unflatten_dict(flat, sep="/")
