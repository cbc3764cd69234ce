import jax.numpy as jnp
import pytest

from vision_jax.config import base_config


class Pixels:
    """A task whose features are the grey levels of the pictures times variables["scale"]."""

    evaluations = ("knn", "linear_probe")

    def features(self, variables, batch):
        grey = batch["image"].astype(jnp.float32).mean(-1) / 255
        return grey.reshape(len(grey), -1) * variables["scale"]


@pytest.fixture
def pixels():
    return Pixels()


@pytest.fixture
def config():
    """The digits at their own size, whose pixels make fair features."""
    c = base_config()
    c.data.image_size, c.data.eval_resize = 8, "squash"
    c.evals.batch_size = 200
    return c
