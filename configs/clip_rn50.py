"""CLIP with a ModifiedResNet-50 on CC12M (default), or with `:laion` on LAION-400M: the recipe of clip_vitb32.py.

Differs in the paper's Adam for ResNets: b2 0.999 and eps 1e-8. BatchNorm statistics are those of the whole batch.
Hardware: not run here. Published zero-shot top-1 on ImageNet: 36.45 after CC12M (open_clip).
"""

from pathlib import Path

from vision_jax.command_line import load_config


def get_config(arg="cc12m"):
    c = load_config(f"{Path(__file__).with_name('clip_vitb32.py')}:{arg}")
    c.model.name = "clip_rn50"
    c.optimizer = dict(b2=0.999, eps=1e-8)
    return c
