"""ViT-B/16 and a text transformer with the sigmoid loss on CC12M (default), or with `:laion` on LAION-400M.

Recipe: "Sigmoid Loss for Language Image Pre-Training" (Zhai et al., https://arxiv.org/abs/2303.15343): every pair of the
batch is a binary question, with a learned bias that starts at -10 and a scale that starts at 10; attention pooling of
the patches; a text tower without causal mask, read at its last token; AdamW with b2 0.95, 1e-3 and a decay of 1e-4. Data
and everything else are those of clip_vitb32.py, including CLIP's vocabulary: SigLIP's own was made for its data.
Hardware: not run here.
"""

import math
from pathlib import Path

from vision_jax.command_line import load_config


def get_config(arg="cc12m"):
    c = load_config(f"{Path(__file__).with_name('clip_vitb32.py')}:{arg}")
    c.model = dict(
        name="clip_vit_b16",
        image_tower="vit_b16",
        image=dict(pool="map"),
        embed_dim=768,
        text_width=768,
        text_num_heads=12,
        text_act="gelu_tanh",
        text_causal=False,
        text_pool="last",
        logit_scale_init=math.log(10.0),
        logit_bias_init=-10.0,
    )
    c.data.context_length = 64
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.loss.name = "sigmoid"
    c.optimizer = dict(b2=0.95, eps=1e-8, weight_decay=1e-4, decay_times_lr=False, decay=".*/kernel", clip_norm=1.0)
    c.schedule.base_lr = 1e-3
    return c
