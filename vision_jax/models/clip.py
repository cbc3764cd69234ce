"""CLIP (Radford et al., 2021), after openai/CLIP: an image tower and a text transformer with a shared embedding space."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from vision_jax.errors import ConfigError
from vision_jax.models.layers import ACTIVATIONS, REMAT, choose, torch_bias
from vision_jax.models.registry import model_fields, module_of
from vision_jax.models.text import POOLS, TextTransformer
from vision_jax.ops.attention import IMPLEMENTATIONS
from vision_jax.ops.sharding import pin_batch
from vision_jax.ops.unit_vectors import unit_vectors


class Projection(nn.Module):
    """float32[B, D] to float32[B, width]; the kernel is drawn with standard deviation 1 / sqrt(D)."""

    width: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        dense = nn.Dense(self.width, self.use_bias, kernel_init=init, bias_init=torch_bias(x.shape[-1]))
        nn.share_scope(self, dense)
        return dense(x)


class CLIP(nn.Module):
    """(image embeddings, text embeddings, logit scale) for images and tokens: see `__call__`.

    Any image model that ends in one vector per image can be the image tower. Embeddings and the scale are float32.
    Raises ConfigError for fields that cannot work.
    """

    image_tower: str = "vit_b32"  # a name from list_models(), or a family's name for the defaults of its module
    image: Mapping = FrozenDict()  # fields of the tower that differ from the registered ones
    image_projection_bias: bool = False
    embed_dim: int = 512
    text_width: int = 512
    text_depth: int = 12
    text_num_heads: int = 8
    text_mlp_dim: int | None = None  # None: 4 * text_width
    text_act: str = "quick_gelu"
    text_causal: bool = True  # False: every token sees all, padding included
    text_pool: str = "end"  # the token that represents the text: "end", the one with the largest id, or "last"
    vocab_size: int = 49408
    context_length: int = 77
    logit_scale_init: float = math.log(1 / 0.07)  # a logarithm
    logit_bias_init: float | None = None  # of a parameter "logit_bias" for the sigmoid loss; None: no such parameter
    scan: bool = False  # one compiled block for all layers of a tower; parameters gain a layer axis (models.stacking)
    remat: str = "none"  # "dots": recompute everything but products with parameters; "full": whole blocks
    attention_impl: str = "xla"
    dtype: Any = jnp.float32  # of activations; parameters, norms' statistics and embeddings are float32

    def __post_init__(self):
        for field, known in (
            ("text_act", ACTIVATIONS),
            ("text_pool", POOLS),
            ("remat", REMAT),
            ("attention_impl", IMPLEMENTATIONS),
        ):
            choose(field, getattr(self, field), known)
        if self.text_width % self.text_num_heads:
            raise ConfigError(
                f"model field 'text_width' must be a multiple of text_num_heads={self.text_num_heads}, got {self.text_width}"
            )
        self.image = FrozenDict(self.image)
        self.image_module(parent=None)
        super().__post_init__()

    def image_module(self, **where) -> nn.Module:
        """The image tower; unbound with parent=None."""
        known = model_fields(self.image_tower)
        if "num_classes" not in known:
            raise ConfigError(
                f"model field 'image_tower' is '{self.image_tower}', which gives no features of an image alone"
            )
        if "num_classes" in self.image:
            raise ConfigError("model field 'image' sets 'num_classes', but CLIP's image tower has no head")
        shared = {name: getattr(self, name) for name in ("scan", "remat", "attention_impl", "dtype") if name in known}
        module, fields = module_of(self.image_tower, {**shared, **self.image, "num_classes": 0})
        return module(**fields, **where)

    def setup(self):
        self.image_model = self.image_module(name="image")
        self.text_model = TextTransformer(
            self.vocab_size,
            self.context_length,
            self.text_width,
            self.text_depth,
            self.text_num_heads,
            self.text_mlp_dim,
            self.text_act,
            self.text_causal,
            self.text_pool,
            scan=self.scan,
            remat=self.remat,
            attention_impl=self.attention_impl,
            dtype=self.dtype,
            name="text",
        )
        self.image_projection = Projection(self.embed_dim, self.image_projection_bias)
        self.text_projection = Projection(self.embed_dim)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(self.logit_scale_init), ())
        if self.logit_bias_init is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.logit_bias_init), ())

    def __call__(self, images, tokens, train: bool = False):
        """Image and text embeddings float32[B, embed_dim] of length 1, and the scale float32[] of their products.

        images: float[B, H, W, C], already normalised. tokens: int32[B, L]. Deterministic unless train=True, which takes
        rngs={"dropout": key} if a rate is above 0 and updates the collection "batch_stats" if the tower has one.
        """
        return (
            self.encode_image(images, train, normalize=True),
            self.encode_text(tokens, train, normalize=True),
            jnp.exp(self.logit_scale),
        )

    def encode_image(self, images, train: bool = False, normalize: bool = False):
        """Embeddings float32[B, embed_dim] of images float[B, H, W, C]; normalize: scale them to length 1."""
        return _embedding(self.image_projection(self.image_features(images, train)), normalize)

    def encode_text(self, tokens, train: bool = False, normalize: bool = False):
        """Embeddings float32[B, embed_dim] of tokens int32[B, L]; normalize: scale them to length 1."""
        return _embedding(self.text_projection(self.text_model(tokens, train)), normalize)

    def image_features(self, images, train: bool = False):
        """The image tower's features float32[B, D], before the projection."""
        features = self.image_model(images, train)
        if getattr(features, "ndim", 0) != 2:
            raise ConfigError("model field 'image' asks for a tower that gives more than one vector an image")
        return features

    def resize_params(
        self, params: Mapping, from_size: tuple[int, int], to_size: tuple[int, int], method: str = "bilinear"
    ) -> dict:
        """`params` for images of `to_size` (height, width) pixels, by the image tower's own `resize_params`."""
        if "image" not in params:
            return dict(params)
        image = self.image_module(parent=None).resize_params(params["image"], from_size, to_size, method)
        return {**params, "image": image}


def _embedding(x, normalize: bool):
    return pin_batch(unit_vectors(x) if normalize else x)
