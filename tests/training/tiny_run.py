"""A run of seconds, for tests that start, stop and change it."""

import pathlib

from vision_jax.config import base_config
from vision_jax.training.throughput import CLOCKED
from vision_jax.weights.work_folder import metric_rows


def config_of(data: pathlib.Path, **keys):
    config = base_config()
    config.model = {"name": "vit_ti16", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
    config.data = {"train": f"folder:{data}/train", "eval": f"folder:{data}/test", "image_size": 16}
    config.data.augment = {"crop_area": None, "flip": False}
    config.batch_size, config.duration, config.schedule.warmup = 8, "8 steps", "2 steps"
    config.evals.classification.every, config.checkpoint.every, config.log.every = "4 steps", "4 steps", "2 steps"
    config.log = {"compile_cache": "", "tensorboard": False}
    for key, value in keys.items():
        *sections, name = key.split("__")
        section = config
        for each in sections:
            section = section[each]
        section[name] = value
    return config


def lines(workdir: pathlib.Path) -> list[dict]:
    """What metrics.jsonl holds, without what a clock says."""
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in metric_rows(workdir)]
