"""Every shipped config, shrunken to a tiny model on embedded data, is built, stepped through its own pipeline and evaluated."""

import atexit
import functools
import json
import pathlib
import runpy
import shutil
import tempfile

import numpy as np
import pytest

from vision_jax.command_line import load_config
from vision_jax.config import derive
from vision_jax.training.loop import train
from vision_jax.training.schedules import make_schedule, peak_lr
from vision_jax.training.setup import prepare

REPO = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(REPO.glob("configs/*.py"))
CONFIGS.remove(REPO / "configs/finetune.py")  # whose model is that of its source: tests/weights/test_finetune.py
ARGUMENTS = {
    "vit_b16_augreg": ["i1k", "i21k"],
    "vit_b16_deit3": ["pretrain", "finetune"],
    "vit_cifar10": [""],
    "swin_base_finetune_384": ["in22k", "in1k"],
    "swinv2_tiny_256": ["w8", "w16"],
    "mae_vitb": ["1600"],
    "mae_vitb_finetune": ["b", "h"],
    "mae_vitb_linear_probe": ["h"],
    "clip_vitb32": ["cc12m", "laion"],
    "clip_vitl14": ["cc12m", "laion"],
}
SPECS = [f"{path}:{arg}".removesuffix(":") for path in CONFIGS for arg in ARGUMENTS.get(path.stem, [""])]
# Stepped by the slow lane alone: further arguments, the same recipes on CIFAR-10 as on digits, the large hybrid, and files
# that change another config's in a few places.
SLOW = {f"{path}:{arg}" for path in CONFIGS for arg in ARGUMENTS.get(path.stem, [""])[1:]}
SLOW |= {spec for spec in SPECS if "cifar10" in spec or "r50_b16" in spec}
SLOW |= {spec for spec in SPECS if "with_name(" in pathlib.Path(spec.partition(":")[0]).read_text()}
SHRUNKEN = {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 48}
TEXT = {"embed_dim": 16, "text_width": 32, "text_depth": 1, "text_num_heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2, "decoder_mlp_dim": 24}


@functools.cache
def digits_csv() -> pathlib.Path:
    """A folder where data/digits has the tables that the configs on labels and numbers read."""
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    runpy.run_path(str(REPO / "experiments/labels/digits_csv.py"))["write"](folder / "data/digits")
    return folder


def shrink(config):
    fields = dict(SHRUNKEN)
    if "swin" in config.model.name:
        fields = {"width": 16, "depths": (2, 1), "num_heads": (2, 2)}
    if config.model.get("representation_size"):
        fields["representation_size"] = 32
    if "r50" in config.model.name:
        fields["stem"] = (1, 1, 1)
    if config.task == "masked_autoencoding":
        fields |= DECODER
    source = "digits"
    if config.task == "contrastive":
        image = {"blocks": (1, 1, 1, 1), "width": 8} if "rn50" in config.model.name else SHRUNKEN
        fields = {"image": image, **TEXT}
        source = "shapes" if not config.data.templates else source
        config.data = dict(tokenizer="bytes", long_texts="cut")
    config.model = fields
    size = 28 if "14" in config.model.name else 32
    train, test = f"{source}:train", f"{source}:test"
    if config.data.train.startswith("csv:"):
        train, test = (f"csv:{digits_csv() / spec.partition(':')[2]}" for spec in (config.data.train, config.data.eval))
    config.data = dict(train=train, eval=test, image_size=size, workers=0)
    config.optimizer.accumulate = min(config.optimizer.accumulate, 2)
    config.init_from = ""
    config.batch_size = 16
    config.duration = "2 steps"
    for key in ("warmup", "cooldown"):
        config.schedule[key] = "1 steps" if config.schedule[key] != "0 steps" else "0 steps"
    config.mesh.data = 1 if config.mesh.fsdp == -1 else -1
    config.log = dict(every="1 steps", compile_cache="")
    config.evals.batch_size = 180
    if "minival" in config.evals:
        config.evals.minival.source = f"{source}:train[90%:]"
    config.evals.reconstruction.examples = 16
    config.evals.linear_probe = dict(l2=(0.1,), max_iter=3)
    return config


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: pathlib.Path(spec).name)
def test_a_trial_of_a_few_steps_has_a_schedule(spec):
    """Whatever the recipe's warm-up, `--config.duration="20 steps"` is all that it takes, and reaches the peak."""
    config = load_config(spec)
    config.duration = "20 steps"
    steps = derive(config, 1_281_167)["steps"]
    schedule = make_schedule(config, total_steps=steps["duration"], num_examples=1_281_167)
    rates = np.array(schedule(np.arange(21)))
    assert steps["duration"] == 20 and rates.max() == pytest.approx(peak_lr(config)) and len(set(rates)) > 5


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: pathlib.Path(spec).name)
def test_builds(spec):
    setup = prepare(shrink(load_config(spec)))
    assert setup.derived["steps"]["duration"] == 2 and setup.flops > 0


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, marks=pytest.mark.slow if spec in SLOW else ()) for spec in SPECS],
    ids=lambda spec: pathlib.Path(spec).name,
)
def test_steps_and_is_evaluated(spec, tmp_path):
    config = shrink(load_config(spec))
    metrics = train(config, tmp_path)
    if config.task == "classification":
        assert metrics["classification/examples"] == 360
    elif config.task in ("multi_label", "regression"):
        assert metrics[f"{config.task}/examples"] == 360 and np.isfinite(metrics[config.checkpoint.best])
    elif config.task == "masked_autoencoding":
        assert np.isfinite(metrics["reconstruction/psnr"])
    else:
        assert 0 <= metrics["zero_shot/top1" if config.data.templates else "retrieval/i2t_r1"] <= 1
    assert metrics["train/skipped"] == 0
    losses = [json.loads(line).get("train/loss") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert len(losses) == 2 and np.isfinite(losses).all()
