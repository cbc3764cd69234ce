"""A model, a data set, a task and an evaluator of one's own, and the config that names them: see README.md."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from vision_jax.config import base_config
from vision_jax.tasks.classification import Classification


class Polygons:
    """Turned polygons in noise, one a picture uint8[24, 24, 3]. A tenth of the training pictures are pentagons."""

    class_names = ("triangle", "square", "pentagon")

    def __init__(self, split: str):
        self.seed, self.labels = {"train": (0, 800 * [0, 1] + 200 * [0, 2]), "test": (1, 200 * [0, 1, 2])}[split]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        rng, label = np.random.default_rng((self.seed, index)), self.labels[index]
        back, front = rng.uniform((30, 130), (110, 220))[rng.permutation(2)].astype(int).tolist()
        picture = Image.new("L", (96, 96), back)
        circle = (*rng.uniform(42, 54, 2), rng.uniform(24, 38))  # the middle, and the radius around it
        ImageDraw.Draw(picture).regular_polygon(circle, label + 3, rng.uniform(0, 360), fill=front)
        pixels = np.asarray(picture.reduce(4))[..., None] + rng.normal(0, 12, (24, 24, 3))
        return {"image": pixels.clip(0, 255).astype(np.uint8), "label": label}


class Net(nn.Module):
    """Images float[B, H, W, 3] to logits [B, num_classes]; to features [B, D] where that is 0."""

    num_classes: int = 0
    widths: tuple[int, ...] = (16, 32, 64)

    @nn.compact
    def __call__(self, x, train: bool = False):
        for width in self.widths:
            x = nn.BatchNorm(not train, momentum=0.9)(nn.Conv(width, (3, 3), use_bias=False)(x))
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = x.mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class Focal(Classification):
    """Cross-entropy times (1 - p)^gamma, p being the right class's probability (Lin et al., 2017, arXiv:1708.02002)."""

    def __init__(self, config, labels, *, gamma: float = 2.0, **loss):
        super().__init__(config, labels, **loss)
        self.gamma = gamma

    def cross_entropy(self, logits, targets):
        losses = super().cross_entropy(logits, targets)  # -log p
        return (1 - jnp.exp(-losses)) ** self.gamma * losses


class Recall:
    """The share of each class's pictures that are recognised, and the mean of these shares."""

    def __init__(self, at):
        self.metrics = (*at.task.class_names, "mean")
        self.rows = at.rows(lambda variables, batch: (at.task.outputs(variables, batch)[0], batch["label"]))

    def run(self, variables):
        logits, labels = map(np.concatenate, zip(*self.rows(variables), strict=True))
        shares = [(logits[labels == number].argmax(-1) == number).mean() for number in range(logits.shape[-1])]
        return dict(zip(self.metrics, [*shares, np.mean(shares)], strict=True))


def get_config():
    c = base_config()
    c.task, c.model.name, c.batch_size, c.duration = "shapes_focal:Focal", "shapes_focal:Net", 64, "20 epochs"
    c.data = dict(train="shapes_focal:Polygons:train", eval="shapes_focal:Polygons:test", image_size=24)
    c.data = dict(eval_resize="squash", augment=dict(crop_area=None, rotate=15.0))
    c.schedule, c.optimizer.weight_decay = dict(base_lr=3e-3, warmup="1 epochs"), 0.05
    c.evals.recall, c.checkpoint.best = dict(kind="shapes_focal:Recall", every="2 epochs"), "recall/mean"
    return c
