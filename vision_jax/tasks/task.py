"""What all tasks share, and what the trainer needs from one."""

import copy
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from vision_jax.config import to_dict
from vision_jax.data.classes import Labels
from vision_jax.data.reading import Field, PictureReader, picture_fields, transform_of
from vision_jax.errors import ConfigError
from vision_jax.models.inference import encode
from vision_jax.models.registry import create_model, model_fields
from vision_jax.tasks.mixing import normalize, random_erasing


class Task:
    """The model of `config.model` in the compute dtype, images as it takes them, and pure functions of its variables.

    A task of your own has `loss`, and overrides whatever else differs:

        init(rng, batch) -> variables
        loss(variables, batch, rng, train) -> scalar, (updated_collections, metrics)    metrics: name -> (sum, count)
        fields                 the arrays of a batch, per example; "mask" bool[B], True for valid examples, is added
        reader(source, train)  how the host reads them: (example, rng) -> {field: array}; rng is None in evaluation
        measure(variables, batch) -> arrays [B, ...], and score(*arrays) -> {metric: value}    over all examples of a source
        features(variables, batch) -> float32[B, D]              frozen, in evaluation mode: what the last layer sees
        constrain(params) -> params                                                     after every update

    `metrics["loss"]` is always there; its count is the number of valid examples that the scalar is the mean over. Keyword
    arguments of a task's `__init__` are its fields, set by `config.loss`. `config` is the task's own copy, into which it
    writes what the data say about the model, so that a saved one describes the model without the data. A whole task may be

        class Brightness(Task):
            def loss(self, variables, batch, rng, train):
                outputs, updated = self.outputs(variables, batch, rng, train)
                target = self.images(batch).mean((1, 2, 3))
                return self.means(batch, updated, loss=(outputs[:, 0] - target) ** 2)
    """

    # Whether a batch's loss is the mean of its examples' own losses, so that the step may split the batch into
    # micro-batches. A task whose examples depend on each other splits the work itself, by `optimizer.accumulate`.
    separable = True
    class_names: tuple[str, ...] = ()  # of the model's first outputs, in order; () if unnamed or not classes
    target_names: tuple[str, ...] = ()  # of the model's outputs if they are numbers
    activation = "softmax"  # of the outputs, for answers; "sigmoid": any number of classes, "identity": numbers
    # Built-in evaluations that suit it; "task", and evaluations of your own, suit all.
    evaluations: tuple[str, ...] = ("knn", "linear_probe")
    metrics: tuple[str, ...] = ("loss",)  # names of the metrics of `loss` in evaluation mode and of `score`

    def __init__(self, config, labels: Labels = Labels(), **model):  # noqa: B008
        """model: fields for the model, used if it has them and the config does not set them."""
        config = copy.deepcopy(config)
        known = model_fields(config.model.name)
        if "num_classes" in model.keys() - known and ":" not in config.model.name:
            raise ConfigError(f"config.model.name={config.model.name!r} has no head for task {config.task!r}")
        config.model = {name: value for name, value in model.items() if name in known} | to_dict(config.model)
        fields = to_dict(config.model)
        if "dtype" in fields:
            raise ConfigError("config.model.dtype is not set: config.precision.compute says it")
        if "dtype" in known:
            fields["dtype"] = jnp.dtype(config.precision.compute)
        self.model = create_model(fields.pop("name"), **fields)
        self.config, self.labels = config, labels

    @property
    def fields(self) -> dict[str, Field]:
        return picture_fields(self.config.data)

    def reader(self, source, train: bool) -> Callable:
        return PictureReader(transform_of(self.config.data, train))

    def images(self, batch: dict) -> jax.Array:
        """The batch's images as the model takes them: normalised, in the compute dtype."""
        data = self.config.data
        return normalize(batch["image"], data.mean, data.std, jnp.dtype(self.config.precision.compute))

    def init(self, rng, batch: dict) -> dict:
        return self.model.init(rng, self.images(batch))

    def outputs(self, variables: dict, batch: dict, rng=None, train: bool = False):
        """(the model's outputs for the batch's images, updated collections); in training with erasing and dropout."""
        images, dropout_rng = self.images(batch), None
        if train:
            erase_rng, dropout_rng = jax.random.split(rng)
            images = random_erasing(erase_rng, images, self.config.data.augment.erase_prob)
        return self.apply(variables, images, dropout_rng, train)

    def apply(self, variables: dict, images: jax.Array, rng, train: bool):
        """(the model's outputs, updated collections) for images as it takes them."""
        updated = [name for name in variables if name != "params"] if train else []
        rngs = {"dropout": rng} if train else None
        told = {"train": train} if "train" in inspect.signature(self.model.__call__).parameters else {}
        return self.model.apply(variables, images, **told, rngs=rngs, mutable=updated)

    def means(self, batch: dict, updated: dict, *, loss: jax.Array, **others: jax.Array):
        """What `loss` returns, from the examples' own losses [B] and other metrics [B]: means over the valid ones."""
        valid = batch["mask"].astype(jnp.float32)
        metrics = {name: (jnp.sum(x * valid), valid.sum()) for name, x in {"loss": loss, **others}.items()}
        total, count = metrics["loss"]
        return total / jnp.maximum(count, 1), (updated, metrics)

    def measure(self, variables: dict, batch: dict) -> tuple:
        return ()

    def score(self, *arrays) -> dict[str, float]:
        return {}

    def features(self, variables: dict, batch: dict) -> jax.Array:
        return encode(self.model, variables, self.images(batch))

    def constrain(self, params: dict) -> dict:
        """Parameters after an update, moved back into their allowed range; unchanged by default."""
        return params


def check_outputs(config, outputs, shape: tuple[int, int]) -> None:
    """Raises ConfigError unless a model's outputs have as many numbers per image as the task learns."""
    if getattr(outputs, "shape", ()) != shape:
        raise ConfigError(
            f"config.model asks for a {config.model.name} that does not end in the {shape[-1]} outputs of a whole image that"
            f" {config.task} learns"
        )


def refuse_augmentations(config, names: Sequence[str], task: str) -> None:
    """Raises ConfigError if one of these is set, since the task does not use them."""
    if used := [name for name in names if config.data.augment[name]]:
        raise ConfigError(f"config.data.augment.{used[0]} does not belong to {task}: set it to 0")
