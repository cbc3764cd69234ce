"""Supervised classification: one label per image; mixing, smoothing and erasing happen on the device."""

import jax

from vision_jax.data.classes import names_of
from vision_jax.data.reading import LabelReader, label_fields, transform_of
from vision_jax.errors import ConfigError
from vision_jax.ops.losses import one_hot_targets, sigmoid_cross_entropy, softmax_cross_entropy, topk_correct, tops
from vision_jax.tasks.mixing import mix, random_erasing
from vision_jax.tasks.task import Task, check_outputs


class Classification(Task):
    """The task of `config.model` on labelled images.

    Batches hold "image" uint8[B, H, W, 3], "label" int32[B] and "mask" bool[B]. The model's number of classes is the
    data's unless the config gives another, which may be larger. The fields are those of `config.loss`.
    """

    evaluations = ("classification", "knn", "linear_probe")

    def __init__(
        self,
        config,
        labels,
        *,
        name: str = "softmax",
        label_smoothing: float = 0.0,
        threshold: float = -1.0,
        sum_classes: bool = True,
    ):
        if not labels.num_classes:
            raise ConfigError(f"config.task={config.task!r} needs classes, and {config.data.train!r} has none")
        super().__init__(config, labels, num_classes=labels.num_classes)
        self.num_classes = getattr(self.model, "num_classes", labels.num_classes)
        if self.num_classes < labels.num_classes:
            raise ConfigError(
                f"config.model.num_classes={self.num_classes} is fewer than the {labels.num_classes} classes of the data"
            )
        self.class_names = names_of(labels)
        self.tops = tops(self.num_classes)  # with few classes, top 5 is always 1
        self.metrics = ("loss", *(f"top{top}" for top in self.tops))
        self.loss_name, self.label_smoothing = name, label_smoothing
        self.threshold, self.sum_classes = threshold, sum_classes

    @property
    def fields(self) -> dict:
        return label_fields(self.config.data)

    def reader(self, source, train: bool):
        return LabelReader(transform_of(self.config.data, train))

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean loss over the valid examples; metrics loss and, if labels are not mixed, top1 and (evaluation) top5."""
        images = self.images(batch)
        targets = one_hot_targets(batch["label"], self.num_classes, self.label_smoothing if train else 0.0)
        dropout_rng, mixed = None, False
        if train:
            mix_rng, erase_rng, dropout_rng = jax.random.split(rng, 3)
            images, targets, mixed = self.augment(mix_rng, erase_rng, images, targets, batch["mask"])
        logits, updated = self.apply(variables, images, dropout_rng, train)
        check_outputs(self.config, logits, targets.shape)
        each = {"loss": self.cross_entropy(logits, targets)}
        if not mixed:
            told = self.tops[:1] if train else self.tops
            each |= {f"top{k}": topk_correct(logits, batch["label"], k) for k in told}
        return self.means(batch, updated, **each)

    def augment(self, mix_rng, erase_rng, images, targets, mask):
        """Random erasing, then mixup or cutmix, in the order of DeiT, Swin and MAE; and whether targets may be mixtures."""
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
        """The loss of each example, float32[B]."""
        if self.loss_name == "softmax":
            return softmax_cross_entropy(logits, targets)
        return sigmoid_cross_entropy(logits, targets, threshold=self.threshold, sum_classes=self.sum_classes)
