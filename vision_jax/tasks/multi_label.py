"""Classification of images that show any number of classes: a binary decision for each class."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.data.classes import Labels, labels_of, names_of, numbers_among
from vision_jax.data.reading import Field, PictureReader, Rows, transform_of
from vision_jax.errors import ConfigError
from vision_jax.files import printable
from vision_jax.ops.losses import sigmoid_cross_entropy
from vision_jax.tasks.task import Task, check_outputs, refuse_augmentations


@dataclasses.dataclass(frozen=True)
class ClassesReader(PictureReader):
    """An image and its "label", float32[C]: 1 for each class that it shows, else 0."""

    numbers: tuple[int, ...]  # the task's number for each of the source's classes
    num_classes: int

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        label = np.zeros(self.num_classes, np.float32)
        label[[self.numbers[number] for number in self.shown(example)]] = 1
        return {**super().__call__(example, rng), "label": label}

    def shown(self, example: Mapping) -> list[int]:
        """The source's numbers of the classes that an example shows; raises ConfigError."""
        count, name = len(self.numbers), printable(example.get("name", "an example"))
        if "labels" in example or "label" in example:
            numbers = list(example["labels"] if "labels" in example else [example["label"]])
            if any(not 0 <= number < count for number in numbers):
                raise ConfigError(f"{name}: its labels must be numbers of classes, 0 to {count - 1}, got {numbers}")
            return numbers
        targets = np.asarray(example.get("targets", ()))
        if targets.shape != (count,) or not np.isin(targets, (0, 1)).all():
            raise ConfigError(f"{name}: its targets must be 0 or 1 for each of {count} classes, got {targets.tolist()}")
        return np.flatnonzero(targets).tolist()


class MultiLabel(Task):
    """The task of `config.model` on images whose examples have "labels", a "label", or "targets" of 0 and 1 per class.

    Batches hold "image" uint8[B, H, W, 3], "label" float32[B, C] and "mask" bool[B].
    """

    activation = "sigmoid"
    evaluations = ("multi_label",)
    metrics = ("loss", "right", "mAP")

    def __init__(
        self, config, labels: Labels, *, label_smoothing: float = 0.0, positive_weights: tuple[float, ...] = ()
    ):
        """label_smoothing: how far targets move towards 1/2. positive_weights: of the positive terms, see `loss`."""
        classes = binary_classes(labels)
        if not classes.num_classes:
            raise ConfigError(f"config.task={config.task!r} needs labels, and {config.data.train!r} has none")
        refuse_augmentations(config, ("mixup", "cutmix"), "multi_label")
        self.num_classes, self.class_names = classes.num_classes, names_of(classes)
        if len(positive_weights) not in (0, 1, self.num_classes) or any(not weight > 0 for weight in positive_weights):
            raise ConfigError(
                f"config.loss.positive_weights takes one number above 0, or one for each of the {self.num_classes}"
                f" classes, got {positive_weights}"
            )
        super().__init__(config, labels, num_classes=self.num_classes)
        self.label_smoothing, self.positive_weights = label_smoothing, positive_weights or (1.0,)

    @property
    def fields(self) -> dict[str, Field]:
        return {**super().fields, "label": Field((self.num_classes,), np.float32)}

    def reader(self, source, train: bool) -> ClassesReader:
        what = f"config.data.train={self.config.data.train!r}" if train else "the evaluation data"
        classes = binary_classes(labels_of(source))
        numbers = numbers_among(classes, self.class_names, what, "the model")
        if not 0 < len(numbers) <= self.num_classes:
            raise ConfigError(f"{what} must have classes, at most the model's {self.num_classes}; got {len(numbers)}")
        return ClassesReader(transform_of(self.config.data, train), numbers, self.num_classes)

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean over valid examples and classes of -(w y log p + (1 - y) log (1 - p)), w a class's positive weight.

        As torch's BCEWithLogitsLoss(pos_weight=w); p then tends to odds that are w times the true ones. Metrics: loss, and
        `right`, the share of correct decisions at p = 1/2.
        """
        logits, updated = self.outputs(variables, batch, rng, train)
        check_outputs(self.config, logits, batch["label"].shape)
        smoothing = self.label_smoothing if train else 0.0
        losses = sigmoid_cross_entropy(
            logits,
            batch["label"] * (1 - smoothing) + smoothing / 2,
            sum_classes=False,
            positive_weights=jnp.asarray(self.positive_weights),
        )
        right = jnp.mean((logits > 0) == (batch["label"] > 0.5), axis=-1)
        return self.means(batch, updated, loss=losses, right=right)

    def measure(self, variables: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
        return self.outputs(variables, batch)[0].astype(jnp.float32), batch["label"]

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """mAP: the mean of average precision over the classes that have an example."""
        found = [average_precision(*pair) for pair in zip(logits.T, labels.T > 0.5, strict=True) if pair[1].any()]
        return {"mAP": float(np.mean(found)) if found else float("nan")}


def binary_classes(labels: Labels) -> Labels:
    """The classes of a source; if it has none, its targets, each of which is a class."""
    return labels if labels.num_classes else Labels(len(labels.target_names), labels.target_names)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """The sum over thresholds of precision times the gain in recall, like scikit-learn's average_precision_score.

    Equal scores share a threshold. scores: float[n]; positive: bool[n], at least one True.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # index of the last of each run of equal scores
    hits = np.cumsum(positive)[last]
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last + 1)))
