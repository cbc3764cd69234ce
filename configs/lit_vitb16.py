"""LiT: a text tower learns to read a locked ViT-B/16, on CC12M (default) or with `:laion` on LAION-400M.

Recipe: "LiT: Zero-Shot Transfer with Locked-image text Tuning" (Zhai et al., https://arxiv.org/abs/2111.07991): the image
tower is pre-trained, `--config.init_from=image=WORKDIR` with a run of vit_b16_augreg.py, and stays frozen; the text tower
and both projections are trained from scratch. Data and everything else are those of clip_vitb32.py.
Hardware: not run here.
"""

from pathlib import Path

from vision_jax.command_line import load_config
from vision_jax.schema import REQUIRED


def get_config(arg="cc12m"):
    c = load_config(f"{Path(__file__).with_name('clip_vitb32.py')}:{arg}")
    c.model = dict(
        name="clip_vit_b16", image_tower="vit_b16", embed_dim=768, text_width=768, text_num_heads=12, text_act="gelu"
    )
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.optimizer.freeze = "image/.*"
    c.init_from = REQUIRED
    return c
