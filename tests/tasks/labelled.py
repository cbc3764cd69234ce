"""Tables of pictures, sources and configs of a small model, for tasks on several labels or numbers."""

import functools
import pathlib

import jax
import numpy as np
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data.sources.own import Own as OwnSource
from vision_jax.training.setup import compile_step, prepare


def write_table(folder: pathlib.Path, text: str, count: int = 9, missing: tuple = ()) -> str:
    """ "csv:FILE" of a table with this text, beside the pictures 0.png, 1.png, ... but for the missing ones."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        grey = np.full((16, 16, 3), 25 * i, np.uint8) + rng.integers(0, 25, (16, 16, 1), np.uint8)
        if f"{i}.png" not in missing:
            Image.fromarray(grey).save(folder / f"{i}.png")
    (folder / "table.csv").write_text(text)
    return f"csv:{folder / 'table.csv'}"


class Examples(list):
    """A source of one's own, which says no more of itself than it is given."""

    def __init__(self, examples: list[dict], **said):
        super().__init__({"image": np.zeros((4, 4, 3), np.uint8)} | example for example in examples)
        vars(self).update(said)


def own(examples: list[dict], **said) -> OwnSource:
    return OwnSource(Examples(examples, **said), "mine")


def config_of(task: str, data: str = "digits:train", **keys):
    """`keys` are those of the config, as "loss.mean"."""
    config = base_config()
    config.task = task
    config.model = {"name": "vit_ti16", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
    config.data = {"train": data, "eval": data, "image_size": 16, "eval_resize": "squash", "max_broken": 1.0}
    config.data.augment = {"crop_area": None, "flip": False}
    config.batch_size, config.duration, config.schedule.base_lr = 16, "6 steps", 0.01
    config.checkpoint.every, config.log = "3 steps", {"compile_cache": "", "tensorboard": False, "every": "1 steps"}
    for key, value in keys.items():
        *sections, name = key.split(".")
        functools.reduce(lambda section, each: section[each], sections, config)[name] = value
    return config


def step(config, batch: dict, devices: int) -> tuple:
    """(parameters, metrics) after two steps of training on a batch, on so many devices."""
    setup = prepare(config, jax.devices()[:devices])
    with jax.set_mesh(setup.mesh):
        state, step_fn = jax.jit(setup.create, out_shardings=setup.shardings)(), compile_step(setup)
        for _ in range(2):
            placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), batch, setup.abstract_batch)
            state, metrics = step_fn(state, placed)
        return jax.device_get((state.params, metrics))


def check_devices(config, target: dict, accumulate: int) -> None:
    """Two steps on a batch with these arrays [16, ...] are the same on eight devices and on one, and in micro-batches."""
    config.optimizer.name, config.optimizer.accumulate = "sgd", accumulate
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 16, 16, 3), np.uint8), **target, "mask": rng.random(16) > 0.3}
    one, eight = (step(config, batch, devices) for devices in (1, 8))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, eight)
    if accumulate > 1:
        config.optimizer.accumulate = 1
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, step(config, batch, 1))
