"""ViT-B/16 with AugReg: `:i1k` (default) from scratch on ImageNet-1k, `:i21k` pre-training on ImageNet-21k.

Recipe: "How to train your ViT?" (Steiner et al., https://arxiv.org/abs/2106.10270) and big_vision's configs/vit_i1k.py
(medium2: mixup 0.5 and RandAugment(2, 15); sigmoid loss, head bias -6.9) and configs/vit_i21k.py (light2: mixup 0.2 and
RandAugment(2, 10); sigmoid loss, head bias -10). As there, training crops are resized bilinearly, and the weight decay of
1e-4 follows the schedule but is not multiplied by the learning rate.
Differences: big_vision's mixup keeps the larger share for the image itself (max of lambda and 1 - lambda) and mixes it
with the next in the batch, where ours is timm's; its evaluation shrinks images by area averaging, where ours is bilinear,
too; it also evaluates on the last hundredth of the training set. Its own file uses average pooling for i21k; the released
AugReg weights use the token, as here.
Data: TFDS does not prepare ImageNet-21k by itself: give your own as `--config.data.train=folder:PATH`; the number of
classes follows from the folder.
Hardware: a TPU v3-128 or 16 80-GB GPUs, about a day for i1k. Expected top-1 on ImageNet-1k: about 79 (i1k, 300 epochs);
i21k, fine-tuned at 384 with configs/vit_b16_finetune_384.py: 85.49 (vision_transformer's README).
"""

from vision_jax.config import base_config
from vision_jax.errors import ConfigError


def get_config(arg="i1k"):
    c = base_config()
    c.batch_size = 4096
    c.duration = "300 epochs"
    c.optimizer = dict(name="adamw", weight_decay=1e-4, decay_times_lr=False, clip_norm=1.0, moment_dtype="bfloat16")
    c.schedule = dict(base_lr=1e-3, warmup="10000 steps", decay="cosine")
    c.precision.compute = "bfloat16"
    c.data.workers = 32
    c.data.interpolation = "bilinear"
    c.loss.name = "sigmoid"
    c.data.augment = dict(crop_area=(0.05, 1.0), flip=True)
    if arg == "i1k":
        c.model = dict(name="vit_b16", pool="token", representation_size=768, head_bias_init=-6.9)
        c.data.train = "tfds:imagenet2012:train[:99%]"
        c.data.eval = "tfds:imagenet2012:validation"
        c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
        c.checkpoint.best = "minival/top1"  # not the reported metric
        c.data.augment = dict(policy="randaug(2,15)", mixup=0.5)
    elif arg == "i21k":
        c.model = dict(name="vit_b16", pool="token", head_bias_init=-10.0)
        c.data.train = "tfds:imagenet21k:full[51200:]"
        c.data.eval = "tfds:imagenet21k:full[:51200]"
        c.data.augment = dict(policy="randaug(2,10)", mixup=0.2)
    else:
        raise ConfigError(f"argument must be i1k or i21k, got {arg!r}")
    return c
