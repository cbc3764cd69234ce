"""The hybrid R50+B/16 from scratch on ImageNet-1k: a ResNet-50 stem of three stages under a ViT-B.

Recipe: the ViT paper's for ImageNet-1k (Dosovitskiy et al., https://arxiv.org/abs/2010.11929, table 3): Adam with decoupled
weight decay 0.3, learning rate 3e-3 at batch 4096, 10,000 steps of warm-up, cosine, 300 epochs, dropout 0.1, clip 1.
Hardware: a TPU v3-128 or 16 80-GB GPUs, about a day and a half. Expected top-1: none is published for training from
scratch on ImageNet-1k; pre-trained on ImageNet-21k and fine-tuned at 384: 83.72 to 85.08 (vision_transformer's README).
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.model = dict(name="vit_r50_b16", dropout_rate=0.1)
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.augment = dict(crop_area=(0.05, 1.0), flip=True)
    c.data.workers = 32
    c.batch_size = 4096
    c.duration = "300 epochs"
    c.optimizer = dict(name="adamw", weight_decay=0.3, clip_norm=1.0, moment_dtype="bfloat16")
    c.schedule = dict(base_lr=3e-3, warmup="10000 steps", decay="cosine")
    c.precision.compute = "bfloat16"
    return c
