"""Swin V2-T from scratch on ImageNet-1k at 256 pixels; `:w8` (default) with window 8, `:w16` with window 16.

Recipe: swin_tiny.py's at 256 pixels; the MLPs of position biases and the scales of the cosines do not decay (configs/
swinv2/swinv2_tiny_patch4_window8_256.yaml and models/swin_transformer_v2.py of microsoft/Swin-Transformer; Liu et al.,
https://arxiv.org/abs/2111.09883).
Hardware: not run here. Expected top-1 (published): 81.8 (window 8), 82.8 (window 16).
"""

import pathlib

from vision_jax.command_line import load_config
from vision_jax.errors import ConfigError


def get_config(arg="w8"):
    if arg not in ("w8", "w16"):
        raise ConfigError(f"argument must be w8 or w16, got {arg!r}")
    c = load_config(str(pathlib.Path(__file__).with_name("swin_tiny.py")))
    c.model = dict(name="swinv2_t" if arg == "w8" else "swinv2_t_w16", drop_path_rate=0.2)
    c.data.image_size = 256
    c.optimizer.decay = r"(?!.*cpb_mlp).*/kernel"
    return c
