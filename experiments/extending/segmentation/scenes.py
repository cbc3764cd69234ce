"""Semantic segmentation: a linear head on Swin's pyramid, drawn scenes, the task, mean IoU and the config: see README.md."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data.images import image_size, random_crop_box
from vision_jax.data.reading import Field
from vision_jax.models.swin import Swin
from vision_jax.tasks.task import Task

COLORS = np.array([(0, 0, 0), (230, 60, 60), (70, 200, 80), (70, 110, 240)], np.uint8)  # of the classes, in pictures


class Scenes:
    """Pictures uint8[96, 96, 3] of six woven discs in any colours, some behind others, and the class of each pixel."""

    class_names = ("background", "rows", "columns", "checks")

    def __init__(self, split: str):
        self.length, self.seed = {"train": (1500, 0), "test": (200, 1)}[split]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        rng, (y, x) = np.random.default_rng((self.seed, index)), np.mgrid[:96, :96]
        rows, columns = (y + rng.integers(4)) // 4, (x + rng.integers(4)) // 4
        weaves = [None, rows, columns, rows + columns]
        picture, truth = np.full((96, 96, 3), rng.integers(20, 235, 3)), np.zeros((96, 96), np.uint8)
        for label, middle in zip(rng.integers(1, 4, 6), rng.uniform(0, 96, (6, 2)), strict=True):
            disc = np.hypot(y - middle[0], x - middle[1]) < rng.uniform(8, 20)
            picture[disc], truth[disc] = rng.integers(20, 235, (2, 3))[weaves[label][disc] % 2], label
        noisy = picture + rng.normal(0, 8, picture.shape)
        return {"image": noisy.clip(0, 255).astype(np.uint8), "labels_map": truth}


def read_scene(data, example, rng):
    """A picture and its map as in a batch: in training cropped and mirrored, both alike, as `data.augment` says."""
    box, mirrored = (0, 0, *example["labels_map"].shape), False
    if rng is not None:
        box = random_crop_box(*box[2:], data.augment.crop_area, data.augment.crop_ratio, rng)
        mirrored = data.augment.flip and rng.random() < 0.5
    top, left, height, width = box
    row = {"image": Image.Resampling.BILINEAR, "labels_map": Image.Resampling.NEAREST}
    for name, how in row.items():
        part = Image.fromarray(example[name]).crop((left, top, left + width, top + height))
        row[name] = np.asarray(part.resize(image_size(data)[::-1], how))[:, :: -1 if mirrored else 1]
    return row


class Segmenter(Swin):
    """Images float[B, H, W, 3] to logits [B, H, W, num_classes], linear in each map of the pyramid; 0: to features."""

    features_only: bool = True

    @nn.compact
    def __call__(self, images, train: bool = False):
        maps = super().__call__(images, train)
        if not self.num_classes:
            return maps[-1].mean((1, 2))
        logits = [nn.Dense(self.num_classes, name=f"classifier_{i}")(x) for i, x in enumerate(maps)]
        return sum(jax.image.resize(x, (*images.shape[:3], self.num_classes), "bilinear") for x in logits)


class Segmentation(Task):
    """The class of each pixel. Batches hold "image" uint8[B, H, W, 3], "labels_map" uint8[B, H, W] and "mask" bool[B]."""

    evaluations = ()  # of the built-in ones
    metrics = ("loss", "right")

    def __init__(self, config, labels):
        super().__init__(config, labels, num_classes=labels.num_classes)

    @property
    def fields(self):
        return {**super().fields, "labels_map": Field(image_size(self.config.data), np.uint8)}

    def reader(self, source, train):
        return functools.partial(read_scene, self.config.data)

    def loss(self, variables, batch, rng, train):
        logits, updated = self.outputs(variables, batch, rng, train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels_map"]).mean((1, 2))
        right = (logits.argmax(-1) == batch["labels_map"]).mean((1, 2))
        return self.means(batch, updated, loss=losses, right=right)


class MeanIoU:
    """Of each class the pixels in common over those that are or are called so; their mean; a picture of some scenes."""

    def __init__(self, at, *, pictures: int = 4):
        def step(variables, batch):
            return batch["image"], batch["labels_map"], at.task.outputs(variables, batch)[0].argmax(-1)

        self.names, self.pictures, self.rows = at.task.labels.class_names, pictures, at.rows(step)
        self.metrics = ("mean", *self.names)

    def run(self, variables):
        counts, shown = np.zeros((len(self.names), len(self.names))), []
        for images, truths, guesses in self.rows(variables):
            np.add.at(counts, (truths, guesses), 1)
            shown = [*shown, *np.concatenate([images, COLORS[truths], COLORS[guesses]], axis=2)][: self.pictures]
        shares = np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1) - np.diag(counts), 1)
        return {"mean": shares.mean(), **dict(zip(self.names, shares, strict=True)), "scenes": np.concatenate(shown)}


def get_config():
    c = base_config()
    c.task, c.batch_size, c.duration, c.data.augment.crop_area = "scenes:Segmentation", 32, "10 epochs", (0.5, 1.0)
    c.model = dict(name="scenes:Segmenter", patch_size=4, width=32, depths=(2, 2, 2), num_heads=(2, 4, 8), window=4)
    c.data = dict(train="scenes:Scenes:train", eval="scenes:Scenes:test", image_size=64)
    c.optimizer, c.schedule = dict(weight_decay=0.05, clip_norm=5.0), dict(base_lr=2e-3, warmup="1 epochs")
    c.evals.iou, c.checkpoint.best = dict(kind="scenes:MeanIoU", every="2 epochs"), "iou/mean"
    return c
