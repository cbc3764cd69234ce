"""Masked autoencoding on CIFAR-10, from `tfds:cifar10` (default) or folders: `:PATH` with PATH/train/CLASS/* and PATH/test/CLASS/*.

Recipe: our own, in the proportions of mae_vitb.py, for the encoder of vit_cifar10.py: patches of 4 on 32 pixels.
Next: mae_cifar10_finetune.py and mae_cifar10_linear_probe.py with `--config.init_from` this run's work folder.
Hardware: meant for one GPU, not run as it is; experiments/mae/cifar10.sh runs a small version: a linear probe of 0.565
after 24 epochs, of 0.460 with random weights.
"""

from vision_jax.config import base_config


def get_config(arg=""):
    c = base_config()
    c.task = "masked_autoencoding"
    c.model = dict(
        name="mae_vit_b16",
        patch_size=4,
        width=192,
        depth=9,
        num_heads=3,
        mlp_dim=768,
        decoder_width=96,
        decoder_depth=2,
        decoder_num_heads=3,
        decoder_mlp_dim=384,
        norm_pix_loss=True,
        pool="gap",
    )
    c.data.train = f"folder:{arg}/train" if arg else "tfds:cifar10:train"
    c.data.eval = f"folder:{arg}/test" if arg else "tfds:cifar10:test"
    c.data.image_size = 32
    c.data.eval_resize = "squash"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.data.augment = dict(crop_area=(0.2, 1.0), flip=True)
    c.batch_size = 512
    c.duration = "400 epochs"
    c.optimizer = dict(name="adamw", b2=0.95, weight_decay=0.05, decay=(".*/kernel", "cls_token", ".*/mask_token"))
    c.schedule = dict(base_lr=7.5e-4, per=256, warmup="20 epochs", decay="cosine")
    c.checkpoint.best = ""
    c.evals.reconstruction.every = "50 epochs"
    c.evals.linear_probe.every = "50 epochs"
    return c
