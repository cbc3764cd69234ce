"""A small ViT on scikit-learn's 1,797 handwritten digits: the first thing to run, and the fastest complete example.

Recipe: our own. A ViT has no built-in notion of neighbourhood or shift and needs augmentation on so little data: with
the random affine transform it reaches 0.99, without it about 0.94.
Hardware: 2 CPU cores, about a minute. Measured top-1 on the 360 held-out digits: 0.989 to 0.992.
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.model = dict(name="vit_ti16", patch_size=4, width=64, depth=4, num_heads=4, mlp_dim=256, pool="gap")
    c.data.train = "digits:train"
    c.data.eval = "digits:test"
    c.data.image_size = 16
    c.data.eval_resize = "squash"
    c.data.augment = dict(crop_area=None, flip=False, rotate=11.5, scale=0.15, shift=0.1)
    c.batch_size = 64
    c.duration = "60 epochs"
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=1.0)
    c.schedule = dict(base_lr=1e-3, warmup="5 epochs", decay="cosine")
    c.checkpoint.every = "5 epochs"
    c.evals.classification.every = "10 epochs"
    return c
