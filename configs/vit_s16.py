"""ViT-S/16 from scratch on ImageNet-1k: the plain 90-epoch recipe.

Recipe: "Better plain ViT baselines for ImageNet-1k" (Beyer et al., https://arxiv.org/abs/2205.01580) and big_vision's
configs/vit_s16_i1k.py: global average pooling, fixed sin-cos positions, a tanh layer before the head, RandAugment(2, 10),
mixup 0.2. big_vision's weight decay of 1e-4 follows the schedule but is not multiplied by the learning rate.
Hardware: 6-7 hours on a TPU v3-8 (theirs). Expected top-1 on the validation set: 76.5 after 90 epochs, 80.0 after 300
(`--config.duration="300 epochs"`).
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.model = dict(name="vit_s16", pool="gap", posemb="sincos2d_bv", representation_size=384)
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.augment = dict(crop_area=(0.05, 1.0), flip=True, policy="randaug(2,10)", mixup=0.2)
    c.data.workers = 16
    c.batch_size = 1024
    c.duration = "90 epochs"
    c.optimizer = dict(name="adamw", weight_decay=1e-4, decay_times_lr=False, clip_norm=1.0, moment_dtype="bfloat16")
    c.schedule = dict(base_lr=1e-3, warmup="10000 steps", decay="cosine")
    c.precision.compute = "bfloat16"
    return c
