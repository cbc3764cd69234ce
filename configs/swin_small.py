"""Swin-S from scratch on ImageNet-1k at 224 pixels.

Recipe: swin_tiny.py's with drop path 0.3 (configs/swin/swin_small_patch4_window7_224.yaml of microsoft/Swin-Transformer;
Liu et al., https://arxiv.org/abs/2103.14030).
Hardware: not run here. Expected top-1: 83.2 (published).
"""

import pathlib

from vision_jax.command_line import load_config


def get_config():
    c = load_config(str(pathlib.Path(__file__).with_name("swin_tiny.py")))
    c.model = dict(name="swin_s", drop_path_rate=0.3)
    return c
