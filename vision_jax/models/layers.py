"""The parts of a transformer that all families share: attention, MLP, block, stack, patch embedding and pooling head."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.ops.attention import attention, attention_weights
from vision_jax.ops.layer_norm import layer_norm
from vision_jax.ops.patches import embed_patches
from vision_jax.ops.platform import dense_product, recomputed
from vision_jax.ops.posemb import relative_offsets
from vision_jax.ops.sharding import pin_batch

ACTIVATIONS: dict[str, Callable] = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}
MAPS = "attention"  # the collection of attention maps, empty unless it is mutable: see `attend`
REMAT = {"none": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def choose(field: str, value: str, known) -> str:
    """Returns `value`; raises ConfigError naming the field and the nearest choice if it is not one of `known`."""
    if value not in known:
        raise ConfigError(
            f"model field '{field}' is {value!r}, not one of {', '.join(known)}{did_you_mean(str(value), known)}"
        )
    return value


def torch_bias(fan_in: int) -> Callable:
    """Uniform within 1 / sqrt(fan_in): torch's default bias for a Linear or convolution."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


_xavier, _zeros, _normal = nn.initializers.xavier_uniform(), nn.initializers.zeros, nn.initializers.normal(0.02)
# One matrix (D, 3D) for q, k and v has a smaller Xavier bound than three matrices (D, D).
_xavier_of_fused_qkv = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # uniform within 1 / sqrt(fan_in), too
normal_by_width = nn.initializers.variance_scaling(1.0, "fan_out", "normal")  # for [..., D]: deviation 1 / sqrt(D)


def _zero_bias(fan_in: int) -> Callable:
    return _zeros


class Initializers(NamedTuple):
    """How a model's official code draws parameters before training. Biases are functions of their layer's inputs."""

    kernel: Callable = _xavier
    qkv: Callable = _xavier
    fc1: Callable | None = None  # for the MLP's first kernel, if it differs from the others
    mlp_bias: Callable = lambda fan_in: nn.initializers.normal(1e-6)
    patch_kernel: Callable = nn.initializers.lecun_normal()  # of shape (p * q * C, D)
    patch_bias: Callable = _zero_bias
    cls: Callable = _zeros
    positions: Callable = _normal


INITS = {
    "google": Initializers(),  # vision_transformer
    "mae": Initializers(
        qkv=_xavier_of_fused_qkv, mlp_bias=_zero_bias, patch_kernel=_xavier, patch_bias=torch_bias, cls=_normal
    ),
    # timm's trunc_normal_ cuts at +-2, which is 100 standard deviations; the patch convolution keeps torch's default.
    "swin": Initializers(_normal, _normal, mlp_bias=_zero_bias, patch_kernel=torch_kernel, patch_bias=torch_bias),
    # OpenAI's image tower: torch's defaults for Linear and MultiheadAttention, whose own biases are zeros.
    "clip": Initializers(
        torch_kernel,
        _xavier_of_fused_qkv,
        mlp_bias=torch_bias,
        patch_kernel=torch_kernel,
        patch_bias=torch_bias,
        cls=normal_by_width,
        positions=normal_by_width,
    ),
}


def initializers(weight_init: str | Initializers) -> Initializers:
    """The initializers with that name, or the given ones."""
    return weight_init if isinstance(weight_init, Initializers) else INITS[weight_init]


def head_initializer(value: str | float):
    """The initializer of a head's kernel: "zeros", "lecun_normal" or the standard deviation of a normal distribution."""
    if not isinstance(value, str):
        return nn.initializers.normal(value)
    known = {"zeros": nn.initializers.zeros, "lecun_normal": nn.initializers.lecun_normal()}
    return known[choose("head_init", value, known)]


def drop_path(x, rate, rng):
    """Stochastic depth (Huang et al., 2016): each sample of the branch x [B, ...] is dropped with probability `rate`."""
    keep = 1.0 - rate
    kept = jax.random.bernoulli(rng, keep, (x.shape[0], *[1] * (x.ndim - 1)))
    return jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)


class LayerNorm(nn.Module):
    """Layer normalisation of x [..., D], in `dtype` with float32 parameters and statistics."""

    eps: float = 1e-6
    dtype: Any = jnp.float32
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", self.scale_init, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x.astype(self.dtype), scale, bias, self.eps)


def attend(module: nn.Module, q, k, v, *, bias=None, mask=None, scale=None, **options):
    """`ops.attention`; keeps the weights, before any dropout, as the module's "weights" if MAPS is mutable."""
    if module.is_mutable_collection(MAPS) and not module.is_initializing():
        module.put_variable(MAPS, "weights", attention_weights(q, k, bias=bias, mask=mask, scale=scale))
    return attention(q, k, v, bias=bias, mask=mask, scale=scale, **options)


class Attention(nn.Module):
    """Multi-head attention of queries x [B, N, D] over keys and values of `memory` [B, M, D] (default: x itself).

    The kernels query, key, value and out are (D, D), with heads side by side in the columns (rows of `out`).
    relative: except for the first `num_prefix` tokens, adds to the logit of tokens p and q the product of the query with
    a learned embedding of p - q, shared over heads (ViT, appendix D.4; Shaw et al., 2018).
    """

    num_heads: int
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    relative: bool = False
    num_prefix: int = 0
    impl: str = "xla"
    dtype: Any = jnp.float32
    weight_init: str | Initializers = "google"

    @nn.compact
    def __call__(self, x, memory=None, mask=None, train: bool = False):
        memory = x if memory is None else memory
        width = x.shape[-1]
        if width % self.num_heads:
            raise ConfigError(f"width={width} is not a multiple of num_heads={self.num_heads}")
        dense = functools.partial(nn.Dense, width, dtype=self.dtype, dot_general=dense_product)
        init = initializers(self.weight_init)
        q, k, v = (
            dense(use_bias=self.qkv_bias, kernel_init=init.qkv, name=name)(tokens).reshape(
                *tokens.shape[:2], self.num_heads, -1
            )
            for name, tokens in (("query", x), ("key", memory), ("value", memory))
        )
        out = attend(
            self,
            q,
            k,
            v,
            bias=self.relative_bias(q) if self.relative else None,
            mask=mask,
            dropout_rate=self.dropout_rate,
            dropout_rng=self.make_rng("dropout") if train and self.dropout_rate > 0.0 else None,
            impl=self.impl,
        )
        return dense(kernel_init=init.kernel, name="out")(out.reshape(x.shape))

    def relative_bias(self, q):
        """float32[B, H, N, N]: scaled products of the queries with the embeddings of offsets; 0 at prefix tokens."""
        q = q[:, self.num_prefix :]
        length, depth = q.shape[1], q.shape[-1]
        table = self.param("rel_embed", nn.initializers.normal(0.02), (2 * length - 1, depth))
        offsets = (table * depth**-0.5).astype(q.dtype)[relative_offsets(length)]
        bias = jnp.einsum("bqhd,qkd->bhqk", q, offsets, preferred_element_type=jnp.float32)
        return jnp.pad(bias, [(0, 0), (0, 0), (self.num_prefix, 0), (self.num_prefix, 0)])


class Mlp(nn.Module):
    """x [..., D] -> fc1 -> activation -> fc2, with dropout after both."""

    mlp_dim: int
    act: str = "gelu_tanh"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    weight_init: str | Initializers = "google"

    @nn.compact
    def __call__(self, x, train: bool = False):
        init, width = initializers(self.weight_init), x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, dot_general=dense_product)
        fc1 = dense(self.mlp_dim, kernel_init=init.fc1 or init.kernel, bias_init=init.mlp_bias(width), name="fc1")
        fc2 = dense(width, kernel_init=init.kernel, bias_init=init.mlp_bias(self.mlp_dim), name="fc2")
        act = ACTIVATIONS[choose("act", self.act, ACTIVATIONS)]
        x = recomputed(act)(fc1(x))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        x = fc2(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class Block(nn.Module):
    """A pre-norm block: x + attention(norm1(x)), then x + mlp(norm2(x)), with optional scale and drop path per branch."""

    num_heads: int
    mlp_dim: int
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_scale_init: float | None = None
    relative: bool = False
    num_prefix: int = 0
    attention_impl: str = "xla"
    dtype: Any = jnp.float32
    weight_init: str | Initializers = "google"
    train: bool = False

    @nn.compact
    def __call__(self, x, drop_path_rate=None, mask=None):
        """x [B, N, D]; drop_path_rate: this block's, None if it has none; mask as `ops.attention` takes it."""

        def branch(y, name):
            if self.layer_scale_init is not None:
                scale = self.param(name, nn.initializers.constant(self.layer_scale_init), (y.shape[-1],))
                y = y * scale.astype(y.dtype)
            return y if drop_path_rate is None else drop_path(y, drop_path_rate, self.make_rng("dropout"))

        y = Attention(
            self.num_heads,
            self.qkv_bias,
            self.attention_dropout_rate,
            self.relative,
            self.num_prefix,
            self.attention_impl,
            self.dtype,
            self.weight_init,
            name="attn",
        )(LayerNorm(self.norm_eps, self.dtype, name="norm1")(x), mask=mask, train=self.train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not self.train)
        x = x + branch(y, "ls1")
        y = LayerNorm(self.norm_eps, self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.act, self.dropout_rate, self.dtype, self.weight_init, name="mlp")(
            y, train=self.train
        )
        return x + branch(y, "ls2")


class Transformer(nn.Module):
    """A stack of `depth` blocks, unrolled as blocks_0 ... or scanned as one `blocks` with a leading layer axis.

    block: fields of `Block` besides `train`. remat: what the backward pass recomputes, "none", "dots" (everything but
    products with parameters) or "full" (whole blocks). drop_path_rate: the last block's; it grows linearly from 0.
    """

    depth: int
    block: dict
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x, mask=None, train: bool = False):
        """[B, N, D] to [B, N, D]; mask: booleans broadcastable to [B, H, N, N], False for a key that is not seen."""
        block_class = Block
        if choose("remat", self.remat, REMAT) != "none":
            block_class = nn.remat(Block, prevent_cse=not self.scan, policy=REMAT[self.remat])
        rates = None
        if train and self.drop_path_rate > 0.0:
            rates = jnp.linspace(0.0, self.drop_path_rate, self.depth)
        x = pin_batch(x)
        if not self.scan:
            for i in range(self.depth):
                block = block_class(**self.block, train=train, name=f"blocks_{i}")
                x = block(x, None if rates is None else rates[i], mask)
            return pin_batch(x)
        stack = nn.scan(
            lambda block, x, rate: (block(x, rate, mask), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
        )
        return pin_batch(stack(block_class(**self.block, train=train, name="blocks"), x, rates)[0])


class PatchEmbed(nn.Module):
    """Images [B, H, W, C] to tokens [B, N, D], row by row: a convolution without overlap, kernel (p, q, C, D)."""

    patch_size: tuple[int, int]
    width: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    weight_init: str = "google"

    @nn.compact
    def __call__(self, images):
        shape = (*self.patch_size, images.shape[-1], self.width)
        init, fan_in = INITS[self.weight_init], math.prod(shape[:-1])
        kernel = self.param("kernel", lambda key: init.patch_kernel(key, (fan_in, self.width)).reshape(shape))
        x = embed_patches(images.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            x = x + self.param("bias", init.patch_bias(fan_in), (self.width,)).astype(self.dtype)
        return x


class MapHead(nn.Module):
    """Attention pooling [B, N, D] -> [B, D]: a learned probe attends to all tokens, then an MLP (big_vision's vit.py)."""

    num_heads: int
    mlp_dim: int
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    attention_impl: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
        x = Attention(self.num_heads, impl=self.attention_impl, dtype=self.dtype, name="attn")(probe, x)
        y = LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        return (x + Mlp(self.mlp_dim, self.act, dtype=self.dtype, name="mlp")(y))[:, 0]
