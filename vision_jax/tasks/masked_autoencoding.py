"""Masked autoencoding (He et al., 2022): the pixels of hidden patches from the visible ones. Labels are not used."""

import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.inference import encode
from vision_jax.models.mae import MAE
from vision_jax.tasks.mixing import normalize
from vision_jax.tasks.task import Task

NOT_READ = ("mixup", "cutmix", "erase_prob")


class MaskedAutoencoding(Task):
    """The task of `config.model`, an MAE, on images; batches as of `Classification`, whose labels serve evaluations only."""

    def __init__(self, config, source):
        if used := [name for name in NOT_READ if config.data.augment[name]]:
            raise ConfigError(f"config.data.augment.{used[0]} does not belong to masked autoencoding: set it to 0")
        super().__init__(config)
        if not isinstance(self.model, MAE):
            raise ConfigError(f"config.model.name={config.model.name!r} is no masked autoencoder (mae_vit_*)")

    def images(self, batch: dict) -> jax.Array:
        """The batch's images as the model takes them: normalised, float32, since they are the target, too."""
        return normalize(batch["image"], self.config.data.mean, self.config.data.std)

    def init(self, rng, batch: dict) -> dict:
        return self.model.init({"params": rng, "masking": rng}, self.images(batch))

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean loss over the valid examples; what is hidden follows from the key (None: always the same)."""
        rngs = {"masking": jax.random.key(0) if rng is None else rng}
        losses, *_ = self.model.apply(variables, self.images(batch), rngs=rngs, method=MAE.losses)
        valid = batch["mask"].astype(jnp.float32)
        total, count = jnp.sum(losses * valid), valid.sum()
        return total / jnp.maximum(count, 1), ({}, {"loss": (total, count)})

    def features(self, variables: dict, batch: dict) -> jax.Array:
        """The encoder's features of whole images, float32[B, D], pooled as the model's field `pool` says."""
        return encode(self.model, variables, self.images(batch))

    def evaluators(self, config) -> dict[str, str]:
        return {name: config.evals[name].every for name in ("reconstruction", "knn", "linear_probe")}
