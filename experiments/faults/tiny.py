"""A ViT of width 16 on handwritten digits: what the crash matrix trains, with everything random that a recipe may have."""

import os

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.model = dict(
        name="vit_ti16", patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16, pool="gap", dropout_rate=0.1
    )
    c.data.train, c.data.eval = "digits:train", "digits:test"
    c.data.image_size = 16
    c.data.eval_resize = "squash"
    c.data.augment = dict(crop_area=None, flip=True, rotate=11.5, shift=0.1, mixup=0.2)
    c.batch_size = 8
    c.duration = "300 steps"
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=1.0, ema=0.9)
    c.schedule = dict(base_lr=1e-3, warmup="10 steps")
    c.checkpoint.every = "10 steps"
    c.evals.classification.every = "50 steps"
    c.evals.batch_size = 8
    c.log = dict(every="1 steps", tensorboard=False, compile_cache=os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    return c
