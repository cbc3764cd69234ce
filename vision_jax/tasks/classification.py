"""Supervised classification: one label a picture, mixed, smoothed and erased on the device."""

import jax
import jax.numpy as jnp

from vision_jax.data.classes import names_of
from vision_jax.errors import ConfigError
from vision_jax.models.inference import encode
from vision_jax.ops.losses import one_hot_targets, sigmoid_cross_entropy, softmax_cross_entropy, topk_correct, tops
from vision_jax.tasks.mixing import mix, random_erasing
from vision_jax.tasks.task import Task


class Classification(Task):
    """The task of `config.model` on labelled images.

    Batches hold "image" uint8[B, H, W, 3], "label" int32[B] and "mask" bool[B]. The model's number of classes is the
    source's unless the config gives another, which may be larger.
    """

    def __init__(self, config, source):
        if not source.num_classes:
            raise ConfigError(f"config.task='classification' needs classes, and {config.data.train!r} has none")
        super().__init__(config, num_classes=source.num_classes)
        if self.model.num_classes < source.num_classes:
            raise ConfigError(
                f"config.model.num_classes={self.model.num_classes} is fewer than the {source.num_classes} classes of the data"
            )
        self.class_names = names_of(source)

    def init(self, rng, batch: dict) -> dict:
        return self.model.init(rng, self.images(batch))

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean loss over the valid examples; metrics loss and, where labels are whole, top1 and (evaluation) top5."""
        images = self.images(batch)
        targets = one_hot_targets(
            batch["label"], self.model.num_classes, self.config.loss.label_smoothing if train else 0.0
        )
        rngs, mixed = None, False
        if train:
            mix_rng, erase_rng, dropout_rng = jax.random.split(rng, 3)
            images, targets, mixed = self.augment(mix_rng, erase_rng, images, targets, batch["mask"])
            rngs = {"dropout": dropout_rng}
        collections = [name for name in variables if name != "params"]
        logits, updated = self.model.apply(
            variables, images, train=train, rngs=rngs, mutable=collections if train else []
        )
        if getattr(logits, "shape", ()) != targets.shape:
            raise ConfigError(
                f"config.model asks for a {self.config.model.name} that does not end in logits of a whole image"
            )

        valid = batch["mask"].astype(jnp.float32)
        count = valid.sum()
        total = jnp.sum(self.cross_entropy(logits, targets) * valid)
        metrics = {"loss": (total, count)}
        if not mixed:
            for k in (1,) if train else tops(self.model.num_classes):
                metrics[f"top{k}"] = (jnp.sum(topk_correct(logits, batch["label"], k) * valid), count)
        return total / jnp.maximum(count, 1), (updated, metrics)

    def features(self, variables: dict, batch: dict) -> jax.Array:
        """What the classifier's head sees, float32[B, D]."""
        return encode(self.model, variables, self.images(batch))

    def augment(self, mix_rng, erase_rng, images, targets, mask):
        """Random erasing, then mixup or cutmix, as DeiT, Swin and MAE order them; whether targets may be mixtures."""
        a = self.config.data.augment
        images = random_erasing(erase_rng, images, a.erase_prob)
        images, targets = mix(
            mix_rng,
            images,
            targets,
            mixup=a.mixup,
            cutmix=a.cutmix,
            mix_prob=a.mix_prob,
            switch_prob=a.switch_prob,
            mask=mask,
        )
        return images, targets, a.mixup > 0 or a.cutmix > 0

    def cross_entropy(self, logits, targets) -> jax.Array:
        """float32[B]."""
        loss = self.config.loss
        if loss.name == "softmax":
            return softmax_cross_entropy(logits, targets)
        return sigmoid_cross_entropy(logits, targets, threshold=loss.threshold, sum_classes=loss.sum_classes)

    def evaluators(self, config) -> dict[str, str]:
        return {name: config.evals[name].every for name in ("classification", "knn", "linear_probe")}
