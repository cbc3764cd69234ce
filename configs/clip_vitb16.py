"""CLIP ViT-B/16 on CC12M (default), or with `:laion` on LAION-400M: the recipe of clip_vitb32.py.

Hardware: not run here. Published zero-shot top-1 on ImageNet: 67.07 after LAION-400M (open_clip).
"""

from pathlib import Path

from vision_jax.command_line import load_config


def get_config(arg="cc12m"):
    c = load_config(f"{Path(__file__).with_name('clip_vitb32.py')}:{arg}")
    c.model.name = "clip_vit_b16"
    return c
