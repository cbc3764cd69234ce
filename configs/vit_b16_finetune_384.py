"""Fine-tuning ViT-B/16 on ImageNet-1k at 384 pixels, from a pre-training run: `--config.init_from=WORKDIR`.

Recipe: vision_transformer's configs/common.py and augreg.py: SGD with momentum 0.9 (kept in bfloat16), learning rate 0.03,
batch 512, 20,000 steps, 500 of them warm-up, cosine, no weight decay, clip 1; positions resampled, a new head of zeros;
evaluation squashes the whole image. No dropout, as in AugReg's fine-tuning.
Hardware: 8 TPU v3 cores or 8 A100, 6.5 hours (vision_transformer's README). Expected top-1: 84.53 from the original
ImageNet-21k weights, 85.49 from AugReg's.
"""

from vision_jax.config import base_config
from vision_jax.schema import REQUIRED


def get_config():
    c = base_config()
    c.model = dict(name="vit_b16", pool="token")
    c.data.train = "tfds:imagenet2012:train[:99%]"
    c.data.eval = "tfds:imagenet2012:validation"
    c.evals.minival = dict(kind="classification", source="tfds:imagenet2012:train[99%:]", every="1 epochs")
    c.checkpoint.best = "minival/top1"  # not the reported metric
    c.data.image_size = 384
    c.data.eval_resize = "squash"
    c.data.augment = dict(crop_area=(0.05, 1.0), flip=True)
    c.data.workers = 16
    c.batch_size = 512
    c.duration = "20000 steps"
    c.optimizer = dict(name="sgd", momentum=0.9, moment_dtype="bfloat16", clip_norm=1.0, accumulate=8)
    c.schedule = dict(base_lr=0.03, warmup="500 steps", decay="cosine")
    c.precision.compute = "bfloat16"
    c.init_from = REQUIRED
    return c
