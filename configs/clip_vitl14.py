"""CLIP ViT-L/14 on CC12M (default), or with `:laion` on LAION-400M: the recipe of clip_vitb32.py, with the paper's peak of 4e-4.

Layers are scanned and recomputed, and parameters are sharded over all devices.
Hardware: not run here. Published zero-shot top-1 on ImageNet: 72.77 after LAION-400M (open_clip).
"""

from pathlib import Path

from vision_jax.command_line import load_config


def get_config(arg="cc12m"):
    c = load_config(f"{Path(__file__).with_name('clip_vitb32.py')}:{arg}")
    c.model = dict(name="clip_vit_l14", scan=True, remat="full")
    c.schedule.base_lr = 4e-4
    c.mesh = dict(data=1, fsdp=-1)
    return c
