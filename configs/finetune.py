"""Fine-tuning published weights or your own on photos in folders: `:PHOTOS`, or `:PHOTOS,head` to train only a new head.

    vision-jax train --config=finetune:photos --config.init_from=google/vit-base-patch16-224 --workdir=runs/photos

PHOTOS has train/CLASS/* and test/CLASS/* (or val); without test, the last fifth of each class is held out of training,
and without train, too, PHOTOS has CLASS/* itself. The model and the image preparation are the source's; the command line,
such as `--config.data.image_size=384`, takes precedence.

Recipe: our own, after MAE's and BEiT's fine-tuning: AdamW at 1e-4 (the head: 1e-3) with layer-wise decay, crops
and flips. 20 epochs, but at least 200 steps and at most 10,000; batches of a quarter of the images, but between 8 and 64.
Hardware: any; a ViT-S/16 on 2 CPU cores takes about 10 seconds per step of 64.
"""

import os
import pathlib

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.schema import OF_SOURCE, REQUIRED

TESTS = ("test", "val", "validation", "valid")


def get_config(arg=""):
    photos, comma, part = arg.rpartition(",")
    head_alone = comma and part == "head"
    photos = photos if head_alone else arg
    if not photos:
        raise ConfigError("it needs a folder of class folders: --config=finetune:PHOTOS")
    train, test = split(photos)
    count = len(open_source(train))
    batch_size = 2 ** (min(count, max(count // 4, 8), 64).bit_length() - 1)
    steps = min(max(20 * count // batch_size, 200), 10_000)
    c = base_config()
    c.init_from = REQUIRED
    c.model.name = OF_SOURCE
    c.data = dict(train=train, eval=test)
    c.data.augment = dict(crop_area=(0.25, 1.0), flip=True)
    c.batch_size = batch_size
    c.duration = f"{steps} steps"
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=1.0)
    c.schedule = dict(base_lr=1e-3, warmup=f"{steps // 10} steps", decay="cosine")
    if head_alone:
        c.optimizer.freeze = r"(?!head/).*"
    else:  # the new head learns ten times as fast as the last block
        c.optimizer.layer_decay = 0.75
        c.optimizer.lr_scale = ((r"(?!head/).*", 0.1),)
    c.evals.classification.every = c.checkpoint.every = f"{steps // 10} steps"
    c.log.every = "10 steps"
    return c


def split(photos: str) -> tuple[str, str]:
    """(training source, evaluation source)."""
    folder = pathlib.Path(os.path.expanduser(photos))
    train = f"{photos}/train" if has_classes(folder / "train") else photos
    for name in TESTS if train != photos else ():
        if has_classes(folder / name):
            return f"folder:{train}", f"folder:{photos}/{name}"
    return f"folder:{train}[:80%]", f"folder:{train}[80%:]"


def has_classes(folder: pathlib.Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in os.scandir(folder))
