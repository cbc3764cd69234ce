"""vision_jax.convert as users run it: from format to format, and out of a work folder of this project."""

import json
import sys

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax import convert
from vision_jax.command_line import load_config
from vision_jax.models import CLIP
from vision_jax.models.inference import variable_shapes
from vision_jax.training.loop import train

TRANSFORM = vj.Preprocessing((16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", "crop", 1.0)
# Sizes that OpenAI's loader can tell from shapes: heads of 64.
TOWER = dict(
    patch_size=8, width=64, depth=1, num_heads=1, mlp_dim=256, pre_norm=True, patch_bias=False, act="quick_gelu"
)
TEXT = dict(embed_dim=12, text_width=64, text_depth=1, text_num_heads=1, vocab_size=30, context_length=9)


def drawn(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), variable_shapes(model, (16, 16)))


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, argv)])
    convert.main()


def test_through_all_formats_of_clip(monkeypatch, capsys, tmp_path):
    model = CLIP("vit", TOWER | {"norm_eps": 1e-5}, **TEXT)
    variables = drawn(model)
    vj.save_pretrained(tmp_path / "hf", model, variables, preprocessing=TRANSFORM)
    (tmp_path / "hf" / "merges.txt").write_text("#version: 0.2\n")
    source = tmp_path / "hf"
    for format in ("open_clip", "openai", "hf"):
        run(monkeypatch, source, tmp_path / f"to_{format}", f"--format={format}")
        source = tmp_path / f"to_{format}" / ("model.pt" if format == "openai" else "")
        assert f"format {format}" in capsys.readouterr().out
    assert (tmp_path / "to_open_clip" / "merges.txt").is_file()
    again, found = vj.load_pretrained(source)
    chex.assert_trees_all_equal(found, variables)
    assert again.text_act == "quick_gelu" and again.image["act"] == "quick_gelu"
    assert vj.preprocessing(tmp_path / "to_open_clip") == TRANSFORM


def test_from_a_work_folder(monkeypatch, tmp_path):
    """Names of classes and preprocessing go along, and the field that timm cannot say otherwise."""
    c = load_config("configs/vit_digits.py")
    c.model = dict(width=16, depth=1, num_heads=2, mlp_dim=24)
    c.batch_size, c.duration, c.schedule.warmup = 16, "2 steps", "0 steps"
    c.evals.classification.every, c.checkpoint.best = "", ""
    c.log = dict(compile_cache="", tensorboard=False)
    train(c, tmp_path / "run")
    run(monkeypatch, tmp_path / "run", tmp_path / "timm", "--format=timm", "--image_size=36", "--checkpoint=2")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["label_names"] == list("0123456789") and config["pretrained_cfg"]["input_size"] == [3, 36, 36]
    resized, expected = vj.load_pretrained(tmp_path / "run", image_size=36)
    model, variables = vj.load_pretrained(tmp_path / "timm")
    chex.assert_trees_all_equal(variables, expected)
    images = np.random.default_rng(0).normal(size=(2, 36, 36, 3)).astype(np.float32)
    chex.assert_trees_all_close(model.apply(variables, images), resized.apply(expected, images), atol=1e-6)
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    theirs, ours = vj.preprocessing(tmp_path / "timm"), vj.preprocessing(tmp_path / "run", image_size=36)
    np.testing.assert_array_equal(theirs(picture), ours(picture))


CASES = {
    "no destination": (["{tmp}/vit", "--format=hf"], ["DEST"]),
    "no format": (["{tmp}/vit", "{tmp}/out"], ["--format"]),
    "unknown format": (["{tmp}/vit", "{tmp}/out", "--format=hff"], ["'hff'", "'hf'"]),
    "a format of others": (["{tmp}/vit", "{tmp}/out", "--format=openai"], ["openai", "ViT", "CLIP"]),
    "no source": (["{tmp}/none", "{tmp}/out", "--format=hf"], ["{tmp}/none"]),
    "something is there": (["{tmp}/vit", "{tmp}/vit", "--format=hf"], ["{tmp}/vit"]),
    "what timm cannot say": (["{tmp}/vit", "{tmp}/out", "--format=timm", "--set", "norm_eps=0.1"], ["norm_eps=0.1"]),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_one_clear_line(case, monkeypatch, capsys, tmp_path):
    model = vj.create_model("vit", num_classes=3, patch_size=8, width=8, depth=1, num_heads=1, mlp_dim=8)
    vj.save_pretrained(tmp_path / "vit", model, drawn(model), image_size=16)
    argv, words = CASES[case]
    with pytest.raises(SystemExit) as exit:
        run(monkeypatch, *(word.format(tmp=tmp_path) for word in argv))
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word.format(tmp=tmp_path) in line, line
    assert not (tmp_path / "out").exists()
