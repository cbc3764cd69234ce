"""The linear probe of an MAE's ViT-B/16 (default), `:l` ViT-L/16 or `:h` ViT-H/14 on ImageNet-1k: `--config.init_from=WORKDIR`.

Recipe: FINETUNE.md and main_linprobe.py of facebookresearch/mae (He et al., https://arxiv.org/abs/2111.06377): everything
frozen but the head, which gets the class token standardised over the batch; MAE's LARS, 0.1 per 256 examples at a batch
of 16384, no decay, 90 epochs, 10 of them warm-up, only crops and flips. Statistics are of the whole batch; the official
ones are of each GPU's share.
Hardware: not run here. Expected top-1: B 67.8, L 76.0, H 77.2 (published).
The last hundredth of the training set is held out to choose the best checkpoint; the published recipe trains on it, too.
"""

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.schema import REQUIRED

NAMES = {"b": "vit_b16", "l": "vit_l16", "h": "vit_h14"}


def get_config(arg="b"):
    if arg not in NAMES:
        raise ConfigError(f"argument must be b, l or h, got {arg!r}")
    c = base_config()
    c.model = dict(
        name=NAMES[arg],
        pool="token",
        posemb="sincos2d",
        act="gelu",
        weight_init="mae",
        head_batch_norm=True,
        head_init=0.01,
    )
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.augment.crop_clip = True
    c.data.workers = 32
    c.batch_size = 16384
    c.duration = "90 epochs"
    c.optimizer = dict(name="lars", momentum=0.9, trust_coefficient=0.001, freeze=r"(?!head/).*")
    c.schedule = dict(base_lr=0.1, per=256, warmup="10 epochs", decay="cosine")
    c.precision.compute = "bfloat16"
    c.init_from = REQUIRED
    return c
