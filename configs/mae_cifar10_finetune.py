"""Fine-tuning mae_cifar10.py's encoder on CIFAR-10: `--config.init_from=WORKDIR`; `:PATH` for folders, as there.

Recipe: a small version of mae_vitb_finetune.py's: mean of the patches and a new norm, layer decay, drop path, RandAugment,
mixup, CutMix.
Hardware: meant for one GPU, not run as it is; experiments/mae/cifar10.sh runs a small version on a tenth of the labels:
0.523, and 0.366 from scratch.
"""

from vision_jax.config import base_config
from vision_jax.schema import REQUIRED


def get_config(arg=""):
    c = base_config()
    c.model = dict(
        name="vit_b16",
        patch_size=4,
        width=192,
        depth=9,
        num_heads=3,
        mlp_dim=768,
        pool="gap",
        cls_token=True,
        norm_pooled=True,
        posemb="learn_sincos2d",
        act="gelu",
        drop_path_rate=0.1,
        weight_init="mae",
        head_init=2e-5,
    )
    c.data.train = f"folder:{arg}/train" if arg else "tfds:cifar10:train"
    c.data.eval = f"folder:{arg}/test" if arg else "tfds:cifar10:test"
    c.data.image_size = 32
    c.data.eval_resize = "squash"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.data.augment = dict(crop_area=(0.4, 1.0), flip=True, policy="rand-m9-mstd0.5-inc1", mixup=0.8, cutmix=1.0)
    c.batch_size = 256
    c.duration = "100 epochs"
    c.loss.label_smoothing = 0.1
    c.optimizer = dict(name="adamw", weight_decay=0.05, layer_decay=0.75)
    c.schedule = dict(base_lr=1e-3, warmup="5 epochs", min_lr=1e-6, decay="cosine")
    c.init_from = REQUIRED
    return c
