"""The linear probe of mae_cifar10.py's encoder: `--config.init_from=WORKDIR`; `:PATH` for folders, as there.

Recipe: that of mae_digits_linear_probe.py: everything frozen but the head, which gets standardised features of the mean
of the patches, trained by MAE's LARS without decay.
Hardware: meant for one GPU, not run. The evaluator `evals.linear_probe` measures the same features by L-BFGS while
mae_cifar10.py trains.
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
        posemb="sincos2d",
        act="gelu",
        weight_init="mae",
        head_batch_norm=True,
        head_init=0.01,
    )
    c.data.train = f"folder:{arg}/train" if arg else "tfds:cifar10:train"
    c.data.eval = f"folder:{arg}/test" if arg else "tfds:cifar10:test"
    c.data.image_size = 32
    c.data.eval_resize = "squash"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.data.augment = dict(crop_area=(0.4, 1.0), flip=True)
    c.batch_size = 1024
    c.duration = "50 epochs"
    c.optimizer = dict(name="lars", momentum=0.9, trust_coefficient=0.001, freeze=r"(?!head/).*")
    c.schedule = dict(base_lr=0.4, per=256, warmup="5 epochs", decay="cosine")
    c.init_from = REQUIRED
    return c
