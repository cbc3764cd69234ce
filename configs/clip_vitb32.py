"""CLIP ViT-B/32 on CC12M (default), or with `:laion` on LAION-400M: shards as img2dataset writes them, below data/.

Recipe: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al.,
https://arxiv.org/abs/2103.00020) as open_clip runs it: AdamW with b2 0.98 and eps 1e-6, decay 0.2 for all but biases,
https://arxiv.org/abs/2103.00020) as open_clip runs it: AdamW with b2 0.98 and eps 1e-6, decay 0.2 for all but biases,
norms, the class token and the scale, cosine from 5e-4, 32 epochs; crops of at least nine tenths and no flip. CC12M: a
batch of 1280 and 10,000 warm-up steps; LAION: 32,768 and 2,000. For other locations:
`--config.data.train=wds:PATH/{00000..01242}.tar`.
With ImageNet and a file of its class names: `--config.evals.zero_shot.every="1 epochs" --config.evals.zero_shot.source=...
--config.evals.zero_shot.classes=FILE --config.evals.zero_shot.templates=photos`.
Hardware: not run here. Published zero-shot top-1 on ImageNet: 62.96 after LAION-400M (open_clip).
"""

from vision_jax.config import base_config
from vision_jax.errors import ConfigError

SHARDS = {"cc12m": "wds:data/cc12m/{00000..01242}.tar", "laion": "wds:data/laion400m/{00000..41407}.tar"}


def get_config(arg="cc12m"):
    if arg not in SHARDS:
        raise ConfigError(f"argument must be cc12m or laion, got {arg!r}")
    c = base_config()
    c.task = "contrastive"
    c.model = dict(name="clip_vit_b32")
    c.data.train = SHARDS[arg]
    c.data.eval = "tfds:coco_captions:val"
    c.data.tokenizer = "clip"
    c.data.mean = (0.48145466, 0.4578275, 0.40821073)
    c.data.std = (0.26862954, 0.26130258, 0.27577711)
    c.data.augment = dict(crop_area=(0.9, 1.0), flip=False)
    c.data.eval_crop = 1.0
    c.data.workers = 16
    c.batch_size = 1280 if arg == "cc12m" else 32768
    c.duration = "32 epochs"
    c.optimizer = dict(name="adamw", b2=0.98, eps=1e-6, weight_decay=0.2)
    c.optimizer.decay = (".*/kernel", ".*/pos_embed", ".*/token_embedding")
    c.schedule = dict(base_lr=5e-4, warmup="10000 steps" if arg == "cc12m" else "2000 steps", decay="cosine")
    c.precision.compute = "bfloat16"
    c.checkpoint.every = "1 epochs"
    c.checkpoint.best = "retrieval/i2t_r1"
    c.evals.retrieval.every = "1 epochs"
    return c
