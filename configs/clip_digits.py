"""CLIP on scikit-learn's digits: images and texts such as "the number 7", then zero-shot classification.

Recipe: our own. Nothing is downloaded: texts are read as bytes. Measured: zero-shot top-1 0.997 on the held-out digits, in
56 s on two CPU cores.
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "contrastive"
    c.model = dict(
        name="clip_vit_b16",
        image=dict(patch_size=4, width=96, depth=4, num_heads=3, mlp_dim=384),
        embed_dim=64,
        text_width=64,
        text_depth=2,
        text_num_heads=2,
    )
    c.data.train = "digits:train"
    c.data.eval = "digits:test"
    c.data.templates = ("a picture of the number {}", "the digit {}", "{}", "a handwritten {}")
    c.data.tokenizer = "bytes"
    c.data.context_length = 32
    c.data.image_size = 16
    c.data.eval_resize = "squash"
    c.data.augment = dict(crop_area=None, flip=False, rotate=12.0, scale=0.1, shift=0.1)
    c.batch_size = 64
    c.duration = "20 epochs"
    c.optimizer = dict(name="adamw", b2=0.98, weight_decay=0.1, clip_norm=1.0)
    c.schedule = dict(base_lr=1e-3, warmup="100 steps", decay="cosine")
    c.checkpoint.every = "10 epochs"
    c.checkpoint.best = ""
    c.evals.zero_shot.every = "10 epochs"
    return c
