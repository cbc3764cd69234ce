"""Contrastive learning of images and texts (CLIP, Radford et al., 2021; SigLIP, Zhai et al., 2023)."""

import math

import jax
import jax.numpy as jnp

from vision_jax.data.captions import TextReader, caption_tokens
from vision_jax.data.reading import Field, transform_of
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.ops.contrastive import sigmoid_contrastive_loss, softmax_contrastive_loss
from vision_jax.ops.sharding import micro_batches, pin_batch
from vision_jax.tasks.task import Task, refuse_augmentations

NOT_READ = ("mixup", "cutmix", "erase_prob")
MAX_LOG_SCALE = math.log(100.0)  # CLIP, section 2.5


class Contrastive(Task):
    """The task of `config.model`, a CLIP, on images with texts: contrasts each pair with all others of the global batch.

    Batches hold "image" uint8[B, H, W, 3], "tokens" int32[B, L] and "mask" bool[B]. The model's vocabulary and context
    are the tokenizer's, unless the config gives larger ones. `optimizer.accumulate` divides the towers' work, not the loss:
    it computes and keeps the embeddings of one part after the other, then computes each part again for its gradient,
    which is therefore that of the whole batch (Gao et al., 2021, https://arxiv.org/abs/2101.06983). BatchNorm statistics
    are per part.
    """

    separable = False
    evaluations = ("zero_shot", "retrieval", "knn", "linear_probe")

    def __init__(self, config, labels, *, name: str = "softmax", label_smoothing: float = 0.0):
        refuse_augmentations(config, NOT_READ, "contrastive learning")
        if label_smoothing > 0:
            raise ConfigError("config.loss.label_smoothing does not belong to contrastive learning: set it to 0")
        self.loss_name = name
        self.tokenizer = open_tokenizer(config.data.tokenizer, config.data.context_length)
        sizes = {"vocab_size": self.tokenizer.vocab_size, "context_length": self.tokenizer.context_length}
        super().__init__(config, labels, **sizes)
        if not isinstance(self.model, CLIP):
            raise ConfigError(f"config.model.name={config.model.name!r} has no text tower (clip_*)")
        for field, size in sizes.items():
            if getattr(self.model, field) < size:
                raise ConfigError(
                    f"config.model.{field}={getattr(self.model, field)} is less than the {size} of data.tokenizer={config.data.tokenizer!r}"
                )
        if (self.model.logit_bias_init is None) != (name == "softmax"):
            raise ConfigError(
                f"config.model.logit_bias_init={self.model.logit_bias_init} does not go with loss.name={name!r}:"
                " the sigmoid loss needs a number (SigLIP: -10), the softmax loss none"
            )

    @property
    def fields(self) -> dict:
        return {**super().fields, "tokens": Field((self.config.data.context_length,), jnp.int32)}

    def reader(self, source, train: bool):
        data = self.config.data
        return TextReader(transform_of(data, train), caption_tokens(data, source))

    def init(self, rng, batch: dict) -> dict:
        return self.model.init(rng, self.images(batch), batch["tokens"])

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean loss over the valid pairs; metrics loss and logit_scale."""
        (image, text), updated = self.embed(variables, batch, rng, train)
        params, mask = variables["params"], batch["mask"]
        scale = jnp.exp(params["logit_scale"])
        if self.loss_name == "softmax":
            losses = softmax_contrastive_loss(image, text, scale, mask)
        else:
            losses = sigmoid_contrastive_loss(image, text, scale, params["logit_bias"], mask)
        total, count = losses.sum(), mask.sum(dtype=jnp.float32)
        metrics = {"loss": (total, count), "logit_scale": (scale, jnp.ones(()))}
        return total / jnp.maximum(count, 1), (updated, metrics)

    def embed(self, variables: dict, batch: dict, rng, train: bool):
        """(embeddings of images and of texts, float32[B, E] each), and the updated collections."""
        parts = self.config.optimizer.accumulate if train else 1
        params = variables["params"]
        names = [name for name in variables if name != "params"]

        def part(collections, xs):
            pictures, tokens, key = xs
            outputs, updated = self.model.apply(
                {"params": params, **collections},
                self.images({"image": pictures}),
                tokens,
                train=train,
                rngs=None if key is None else {"dropout": key},
                mutable=names if train else [],
            )
            return {**collections, **updated}, outputs[:2]

        collections = {name: variables[name] for name in names}
        if parts == 1:
            return part(collections, (batch["image"], batch["tokens"], rng))[::-1]

        divided = (micro_batches(batch[name], parts) for name in ("image", "tokens"))
        xs = *divided, None if rng is None else jax.random.split(rng, parts)
        collections, embeddings = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), collections, xs)
        return tuple(pin_batch(x.swapaxes(0, 1).reshape(-1, x.shape[-1])) for x in embeddings), collections

    def constrain(self, params: dict) -> dict:
        """With the softmax loss, keeps the logit scale within 1 and 100, like open_clip; SigLIP's is free."""
        if self.loss_name == "sigmoid":
            return params
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0.0, MAX_LOG_SCALE)}

    def image_embeddings(self, variables: dict, batch: dict) -> jax.Array:
        """Image embeddings float32[B, E], of length 1."""
        return self.model.apply(variables, self.images(batch), normalize=True, method=CLIP.encode_image)

    def text_embeddings(self, variables: dict, tokens: jax.Array) -> jax.Array:
        """Embeddings float32[n, E], of length 1, of tokens int32[n, L]."""
        return self.model.apply(variables, tokens, normalize=True, method=CLIP.encode_text)
