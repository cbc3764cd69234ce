"""Fine-tuning Swin-B on ImageNet-1k at 384 pixels with window 12, from a run at 224: `--config.init_from=WORKDIR`.

`:in22k` (default) follows swin_base_in22k.py, `:in1k` swin_base.py. The tables of position biases are resampled bicubically
from window 7 to 12. The official loader picks the rows of the 1,000 classes from a 22k head; here a head for other
classes starts from zeros.
Recipe: 30 epochs of AdamW, 5 of them warm-up, 2e-5 per 512 examples, weight decay 1e-8, mixup and CutMix on,
drop path 0.2 from 22k and 0.5 from 1k; evaluation squashes the whole image (configs/swin/
swin_base_patch4_window12_384_*.yaml of microsoft/Swin-Transformer; Liu et al., https://arxiv.org/abs/2103.14030).
Hardware: not run here; two micro-batches per step.
Expected top-1 (published): 86.4 from 22k, 84.5 from 1k.
"""

import pathlib

from vision_jax.command_line import load_config
from vision_jax.errors import ConfigError
from vision_jax.schema import REQUIRED


def get_config(arg="in22k"):
    if arg not in ("in22k", "in1k"):
        raise ConfigError(f"argument must be in22k or in1k, got {arg!r}")
    c = load_config(str(pathlib.Path(__file__).with_name("swin_tiny.py")))
    c.model = dict(name="swin_b_w12", drop_path_rate=0.2 if arg == "in22k" else 0.5)
    c.data.image_size = 384
    c.data.eval_resize = "squash"
    c.duration = "30 epochs"
    c.optimizer = dict(weight_decay=1e-8, accumulate=2)
    c.schedule = dict(base_lr=2e-5, warmup="5 epochs", warmup_lr=4e-8, min_lr=4e-7)
    c.init_from = REQUIRED
    return c
