"""Predicting numbers from images."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax.data.classes import Labels, labels_of
from vision_jax.data.reading import Field, PictureReader, Rows, transform_of
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable
from vision_jax.tasks.task import Task, check_outputs, refuse_augmentations


@dataclasses.dataclass(frozen=True)
class TargetsReader(PictureReader):
    """An image and its "target", float32[T]."""

    columns: tuple[int, ...]  # for each of the task's targets, its column in the source
    num_targets: int  # of the source

    def __call__(self, example: Mapping, rng: np.random.Generator | None) -> Rows:
        targets = np.asarray(example.get("targets", ()), np.float32)
        if targets.shape != (self.num_targets,) or not np.isfinite(targets).all():
            name = printable(example.get("name", "an example"))
            raise ConfigError(f"{name}: its targets must be {self.num_targets} finite numbers, got {targets.tolist()}")
        return {**super().__call__(example, rng), "target": targets[list(self.columns)]}


class Regression(Task):
    """The task of `config.model` on images whose examples have "targets", from a source that has `target_names`.

    Batches hold "image" uint8[B, H, W, 3], "target" float32[B, T] and "mask" bool[B]. The model learns (target - mean) /
    std, so that its outputs are of order 1.
    """

    activation = "identity"
    evaluations = ("regression",)

    def __init__(
        self,
        config,
        labels: Labels,
        *,
        huber_delta: float = 0.0,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
    ):
        """mean, std: of the targets, one for all or one per target. huber_delta: see `loss`, in standard deviations."""
        self.target_names = labels.target_names
        if not self.target_names:
            raise ConfigError(
                f"config.task={config.task!r} needs numbers as targets, and {config.data.train!r} has none"
            )
        refuse_augmentations(config, ("mixup", "cutmix"), "regression")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, len(self.target_names)) or (name == "std" and min(values) <= 0):
                raise ConfigError(
                    f"config.loss.{name} takes one number{' above 0' * (name == 'std')}, or one for each of the"
                    f" {len(self.target_names)} targets, got {values}"
                )
        if huber_delta < 0:
            raise ConfigError(f"config.loss.huber_delta must be 0 (squared error) or above, got {huber_delta}")
        super().__init__(config, labels, num_classes=len(self.target_names))
        self.huber_delta, self.mean, self.std = huber_delta, np.float32(mean), np.float32(std)

    @property
    def metrics(self) -> tuple[str, ...]:
        each = self.target_names if len(self.target_names) > 1 else ()
        return ("loss", "mae", "r2", *(f"mae_{name}" for name in each))

    @property
    def fields(self) -> dict[str, Field]:
        return {**super().fields, "target": Field((len(self.target_names),), np.float32)}

    def reader(self, source, train: bool) -> TargetsReader:
        what = f"config.data.train={self.config.data.train!r}" if train else "the evaluation data"
        known = labels_of(source).target_names
        if lost := [name for name in self.target_names if name not in known]:
            raise ConfigError(
                f"{what} has no number '{printable(lost[0])}', which the model learns{did_you_mean(lost[0], known)}"
            )
        return TargetsReader(
            transform_of(self.config.data, train), tuple(map(known.index, self.target_names)), len(known)
        )

    def loss(self, variables: dict, batch: dict, rng, train: bool):
        """Mean over valid examples and targets of half the squared error in standard deviations, or Huber's loss.

        Huber's (1964) is linear for errors beyond `huber_delta`. Metrics: loss, and mae, the mean absolute error in the
        targets' own units.
        """
        outputs, updated = self.outputs(variables, batch, rng, train)
        check_outputs(self.config, outputs, batch["target"].shape)
        errors = outputs.astype(jnp.float32) - (batch["target"] - self.mean) / self.std
        losses = optax.losses.huber_loss(errors, delta=self.huber_delta) if self.huber_delta else errors**2 / 2
        absolute = jnp.mean(jnp.abs(errors) * self.std, axis=-1)
        return self.means(batch, updated, loss=losses.mean(-1), mae=absolute)

    def measure(self, variables: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
        outputs = self.outputs(variables, batch)[0].astype(jnp.float32)
        return outputs * self.std + self.mean, batch["target"]

    def score(self, predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """r2, the mean over targets of 1 - squared errors / squared deviations from the mean; with several, each one's mae.

        A target that never varies has r2 = 1 if every prediction is exact and 0 otherwise, as in scikit-learn.
        """
        predicted, targets = predicted.astype(np.float64), targets.astype(np.float64)
        squares, spread = np.square(predicted - targets).sum(0), np.square(targets - targets.mean(0)).sum(0)
        varies = np.ptp(targets, axis=0) > 0  # exact, whatever the rounding of the mean
        r2 = np.where(varies, 1 - squares / np.where(varies, spread, 1), squares == 0)
        each = zip(self.metrics[3:], np.abs(predicted - targets).mean(0).tolist(), strict=False)
        return {"r2": float(r2.mean()), **dict(each)}
