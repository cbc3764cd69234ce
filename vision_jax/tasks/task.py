"""What all tasks share."""

import copy

import jax
import jax.numpy as jnp

from vision_jax.config import to_dict
from vision_jax.errors import ConfigError
from vision_jax.models.registry import create_model
from vision_jax.tasks.mixing import normalize


class Task:
    """The model of `config.model` in the compute dtype, and pictures as it takes them.

    `config` is a task's own copy, into which it writes what the data say of the model, so that a saved one describes the
    model without the data.
    """

    # Whether a batch's loss is the mean of its examples' own, so that the step may take the batch in micro-batches. A
    # task whose examples depend on each other divides the work itself, as `optimizer.accumulate` says.
    separable = True
    class_names: tuple[str, ...] = ()  # of the model's first outputs, in order; () where they are no classes or unnamed

    def __init__(self, config, **fields):
        """fields: of the model, where the config does not set them."""
        config = copy.deepcopy(config)
        config.model = fields | to_dict(config.model)
        fields = to_dict(config.model)
        if "dtype" in fields:
            raise ConfigError("config.model.dtype is not set: config.precision.compute says it")
        self.model = create_model(fields.pop("name"), dtype=jnp.dtype(config.precision.compute), **fields)
        self.config = config

    def images(self, batch: dict) -> jax.Array:
        """The batch's images as the model takes them: normalised, in the compute dtype."""
        data = self.config.data
        return normalize(batch["image"], data.mean, data.std, jnp.dtype(self.config.precision.compute))

    def constrain(self, params: dict) -> dict:
        """Parameters after an update, put back where they must stay: by default as they are."""
        return params
