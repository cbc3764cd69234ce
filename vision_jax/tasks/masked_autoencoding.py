"""Masked autoencoding (He et al., 2022): predicts the pixels of hidden patches from visible ones. Labels are not used."""

import jax

from vision_jax.errors import ConfigError
from vision_jax.models.mae import MAE
from vision_jax.tasks.mixing import normalize
from vision_jax.tasks.task import Task, refuse_augmentations

NOT_READ = ("mixup", "cutmix", "erase_prob")


class MaskedAutoencoding(Task):
    """The task of `config.model`, an MAE, on images; labels are for evaluations only."""

    evaluations = ("reconstruction", "knn", "linear_probe")

    def __init__(self, config, labels):
        refuse_augmentations(config, NOT_READ, "masked autoencoding")
        super().__init__(config, labels)
        if not isinstance(self.model, MAE):
            raise ConfigError(f"config.model.name={config.model.name!r} is no masked autoencoder (mae_vit_*)")

    def images(self, batch: dict) -> jax.Array:
        """The batch's images as the model takes them: normalised, in float32 since they are also the target."""
        return normalize(batch["image"], self.config.data.mean, self.config.data.std)

    def init(self, rng, batch: dict) -> dict:
        return self.model.init({"params": rng, "masking": rng}, self.images(batch))

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean loss over the valid examples; the key decides what is hidden (None: always the same)."""
        rngs = {"masking": jax.random.key(0) if rng is None else rng}
        losses, *_ = self.model.apply(variables, self.images(batch), rngs=rngs, method=MAE.losses)
        return self.means(batch, {}, loss=losses)
