"""Fine-tuning an MAE's ViT-B/16 (default), `:l` ViT-L/16 or `:h` ViT-H/14 on ImageNet-1k: `--config.init_from=WORKDIR`.

Recipe: FINETUNE.md of facebookresearch/mae (He et al., https://arxiv.org/abs/2111.06377): mean of the patches and a new
norm instead of the class token and the encoder's norm; AdamW, 5e-4 (L, H: 1e-3) per 256 examples at a batch of 1024,
5 epochs of warm-up, 100 (L, H: 50) epochs, layer decay 0.65 (0.75), drop path 0.1 (0.2, 0.3), RandAugment, mixup, CutMix,
erasing, label smoothing. Positions are learned, starting from the fixed ones.
Hardware: not run here. Expected top-1: B 83.6, L 85.9, H 86.9 (published, after 1600 epochs of pre-training).
The last hundredth of the training set is held out to choose the best checkpoint; the published recipe trains on it, too.
"""

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.schema import REQUIRED

SIZES = {  # model, epochs, learning rate per 256 examples, layer decay, drop path
    "b": ("vit_b16", 100, 5e-4, 0.65, 0.1),
    "l": ("vit_l16", 50, 1e-3, 0.75, 0.2),
    "h": ("vit_h14", 50, 1e-3, 0.75, 0.3),
}


def get_config(arg="b"):
    if arg not in SIZES:
        raise ConfigError(f"argument must be b, l or h, got {arg!r}")
    name, epochs, rate, layer_decay, drop_path_rate = SIZES[arg]
    c = base_config()
    c.model = dict(
        name=name,
        pool="gap",
        cls_token=True,
        norm_pooled=True,
        posemb="learn_sincos2d",
        act="gelu",
        drop_path_rate=drop_path_rate,
        weight_init="mae",
        head_init=2e-5,
    )
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.augment = dict(policy="rand-m9-mstd0.5-inc1", mixup=0.8, cutmix=1.0, erase_prob=0.25)
    c.data.workers = 16
    c.batch_size = 1024
    c.duration = f"{epochs} epochs"
    c.loss.label_smoothing = 0.1
    c.optimizer = dict(name="adamw", weight_decay=0.05, layer_decay=layer_decay)
    c.schedule = dict(base_lr=rate, per=256, warmup="5 epochs", min_lr=1e-6, decay="cosine")
    c.precision.compute = "bfloat16"
    c.init_from = REQUIRED
    return c
