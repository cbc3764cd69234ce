"""MAE pre-training of ViT-L/16 on ImageNet-1k; mae_vitb.py's recipe, `:1600` for 1600 epochs.

Hardware: not run here. Expected top-1 fine-tuned with `mae_vitb_finetune.py:l`: 85.5 after 800 epochs, 85.9 after 1600;
with a linear probe 76.0 (published).
"""

import pathlib

from vision_jax.command_line import load_config


def get_config(arg="800"):
    c = load_config(f"{pathlib.Path(__file__).with_name('mae_vitb.py')}:{arg}")
    c.model.name = "mae_vit_l16"
    return c
