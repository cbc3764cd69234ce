"""Swin-T from scratch on ImageNet-1k at 224 pixels.

Recipe: "Swin Transformer" (Liu et al., https://arxiv.org/abs/2103.14030) and config.py of microsoft/Swin-Transformer:
300 epochs of AdamW, 20 of them warm-up, 5e-4 per 512 examples (its warm-up and final rates scale, too: written out here
for a batch of 1024), RandAugment, mixup, CutMix, erasing, label smoothing, drop path 0.2, clip 5.
Hardware: not run here. Expected top-1: 81.2 (published).
The last hundredth of the training set is held out to choose the best checkpoint; the published recipe trains on it, too.
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.model = dict(name="swin_t", drop_path_rate=0.2)
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.image_size = 224
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.augment = dict(policy="rand-m9-mstd0.5-inc1", mixup=0.8, cutmix=1.0, erase_prob=0.25)
    c.data.workers = 16
    c.batch_size = 1024
    c.duration = "300 epochs"
    c.loss.label_smoothing = 0.1
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=5.0)
    c.schedule = dict(base_lr=5e-4, per=512, warmup="20 epochs", warmup_lr=1e-6, min_lr=1e-5, decay="cosine")
    c.precision.compute = "bfloat16"
    return c
