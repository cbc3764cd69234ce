"""Swin-B pre-trained on ImageNet-22k at 224 pixels, to be fine-tuned with swin_base_finetune_384.py.

Recipe: swin_tiny.py's for 90 epochs, 5 of them warm-up, with drop path 0.2 and 1.25e-4 per 512 examples, here at a
batch of 4096 (configs/swin/swin_base_patch4_window7_224_22k.yaml of microsoft/Swin-Transformer; Liu et al.,
https://arxiv.org/abs/2103.14030).
Data: TFDS does not prepare ImageNet-22k by itself: `:PATH` with PATH/train/CLASS/* and PATH/val/CLASS/*; without an
argument TFDS's imagenet21k, if you have prepared it. The number of classes follows from the data.
Hardware: not run here. Expected top-1 on ImageNet-1k after fine-tuning at 224: 85.2; at 384: 86.4 (published).
"""

import pathlib

from vision_jax.command_line import load_config


def get_config(arg=""):
    c = load_config(str(pathlib.Path(__file__).with_name("swin_tiny.py")))
    c.model = dict(name="swin_b", drop_path_rate=0.2)
    c.data.train = f"folder:{arg}/train" if arg else "tfds:imagenet21k:full[51200:]"
    c.data.eval = f"folder:{arg}/val" if arg else "tfds:imagenet21k:full[:51200]"
    c.evals.minival, c.checkpoint.best = None, "classification/top1"  # data.eval is held out for this purpose only
    c.data.workers = 32
    c.batch_size = 4096
    c.duration = "90 epochs"
    c.schedule = dict(base_lr=1.25e-4, warmup="5 epochs")
    return c
