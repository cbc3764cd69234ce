"""CLIP on drawn scenes with captions such as "a small red circle left of a blue square", generated on the fly.

Recipe: our own. Nothing is downloaded: texts are read as bytes. The 100 scenes of the evaluation are combinations that
training never shows; each must be found among all of them by its image, and by its caption. Measured on two CPU cores in
15 minutes: for 0.97 of the images a right caption comes first, for 0.94 of the captions their image.
"""

from vision_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "contrastive"
    c.model = dict(
        name="clip_vit_b16",
        image=dict(patch_size=8, width=128, depth=4, num_heads=4, mlp_dim=512),
        embed_dim=128,
        text_width=96,
        text_depth=3,
        text_num_heads=3,
    )
    c.data.train = "shapes:train"
    c.data.eval = "shapes:test"
    c.data.tokenizer = "bytes"
    c.data.context_length = 64
    c.data.long_texts = "raise"
    c.data.image_size = 48
    c.data.eval_resize = "squash"
    c.data.augment = dict(crop_area=None, flip=False)
    c.batch_size = 128
    c.duration = "9 epochs"
    c.optimizer = dict(name="adamw", b2=0.98, weight_decay=0.1, clip_norm=1.0)
    c.schedule = dict(base_lr=1e-3, warmup="200 steps", decay="cosine")
    c.checkpoint.best = ""
    c.evals.retrieval.every = "3 epochs"
    return c
