"""A small Swin on CIFAR-10, from `tfds:cifar10` (default) or folders: `:PATH` with PATH/train/CLASS/* and PATH/test/CLASS/*.

Recipe: our own, after vit_cifar10.py: patches of 2 on 32 pixels, three stages with windows of 4 on maps of 16, 8 and 4
tokens per side, RandAugment, mixup, CutMix, drop path 0.1.
Hardware: meant for one GPU. The final accuracy has not been measured yet.
Prepare the TFDS set with `tfds build cifar10 --file_format=array_record`.
"""

from vision_jax.config import base_config


def get_config(arg=""):
    c = base_config()
    c.model = dict(
        name="swin_t", patch_size=2, width=64, depths=(2, 4, 2), num_heads=(2, 4, 8), window=4, drop_path_rate=0.1
    )
    c.data.train = f"folder:{arg}/train" if arg else "tfds:cifar10:train"
    c.data.eval = f"folder:{arg}/test" if arg else "tfds:cifar10:test"
    c.data.image_size = 32
    c.data.eval_resize = "squash"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.data.augment = dict(crop_area=(0.4, 1.0), flip=True, policy="rand-m9-mstd0.5-inc1", mixup=0.8, cutmix=1.0)
    c.batch_size = 256
    c.duration = "200 epochs"
    c.loss.label_smoothing = 0.1
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=5.0)
    c.schedule = dict(base_lr=1e-3, warmup="10 epochs", decay="cosine", min_lr=1e-5)
    return c
