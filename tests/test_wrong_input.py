"""Each wrong config or input ends the command in one line that names it, and a non-zero status."""

import pathlib
import sys

import pytest
from PIL import Image

from vision_jax import main

REPO = pathlib.Path(__file__).parents[1]


@pytest.fixture
def files(tmp_path):
    """Folders of images, one of them with a text file, and wrong config files."""
    for name in ("good", "text"):
        for label in ("cat", "dog"):
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / name / label / "a.png")
    (tmp_path / "text" / "dog" / "notes.txt").write_text("hello")
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "flat" / "a.png")
    (tmp_path / "syntax.py").write_text("def get_config(:\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "typo.py").write_text(
        "from vision_jax.config import base_config\ndef get_config():\n    c = base_config()\n    c.batchsize = 3\n    return c\n"
    )
    (tmp_path / "file").write_text("")
    return tmp_path


DIGITS = "--config=configs/vit_digits.py"
CLIP = "--config=configs/clip_digits.py"
CASES = {
    "no config": (["--workdir={tmp}/w"], ["--config"]),
    "missing config file": (["--config=configs/vit_digit.py", "--workdir={tmp}/w"], ["vit_digit.py", "vit_digits.py"]),
    "syntax error": (["--config={tmp}/syntax.py", "--workdir={tmp}/w"], ["syntax.py", "SyntaxError"]),
    "no get_config": (["--config={tmp}/empty.py", "--workdir={tmp}/w"], ["empty.py", "get_config"]),
    "misspelt key in a file": (["--config={tmp}/typo.py", "--workdir={tmp}/w"], ["typo.py", "batchsize", "batch_size"]),
    "wrong argument": (["--config=configs/vit_b16_augreg.py:i22k", "--workdir={tmp}/w"], ["i22k", "i21k"]),
    "unwanted argument": ([DIGITS + ":big", "--workdir={tmp}/w"], ["takes no argument"]),
    "misspelt key": ([DIGITS, "--workdir={tmp}/w", "--config.optimizer.weight_deacy=0.1"], ["weight_deacy", "weight_decay"]),
    "misspelt flag": ([DIGITS, "--workdri={tmp}/w", "--workdir={tmp}/w"], ["--workdri"]),
    "wrong type": ([DIGITS, "--workdir={tmp}/w", "--config.batch_size=many"], ["batch_size", "int", "many"]),
    "wrong choice": ([DIGITS, "--workdir={tmp}/w", "--config.optimizer.name=adam"], ["optimizer.name", "adamw"]),
    "wrong duration": ([DIGITS, "--workdir={tmp}/w", "--config.duration=3 weeks"], ["duration", "3 weeks", "epochs"]),
    "unknown model": ([DIGITS, "--workdir={tmp}/w", "--config.model.name=vit_b17"], ["vit_b17", "vit_b16"]),
    "unknown model field": ([DIGITS, "--workdir={tmp}/w", "--config.model.dpeth=3"], ["dpeth", "depth"]),
    "wrong field value": ([DIGITS, "--workdir={tmp}/w", "--config.model.pool=max"], ["pool", "max", "gap"]),
    "heads do not divide the width": ([DIGITS, "--workdir={tmp}/w", "--config.model.num_heads=7"], ["7", "64"]),
    "resolution not divisible by the patch": ([DIGITS, "--workdir={tmp}/w", "--config.data.image_size=18"], ["18", "4"]),
    "too few classes": ([DIGITS, "--workdir={tmp}/w", "--config.model.num_classes=5"], ["num_classes=5", "10"]),
    "batch not divisible by the devices": ([DIGITS, "--workdir={tmp}/w", "--config.batch_size=33"], ["batch_size=33", "8"]),
    "mesh does not fit": ([DIGITS, "--workdir={tmp}/w", "--config.mesh.fsdp=3"], ["mesh", "fsdp=3", "8 devices"]),
    "unknown source": ([DIGITS, "--workdir={tmp}/w", "--config.data.train=digit:train"], ["digit", "digits"]),
    "missing folder": ([DIGITS, "--workdir={tmp}/w", "--config.data.train=folder:{tmp}/none"], ["{tmp}/none"]),
    "text file among the images": ([DIGITS, "--workdir={tmp}/w", "--config.data.train=folder:{tmp}/text"], ["notes.txt"]),
    "no class folders": ([DIGITS, "--workdir={tmp}/w", "--config.data.train=folder:{tmp}/flat"], ["{tmp}/flat"]),
    "data set not prepared": (
        [DIGITS, "--workdir={tmp}/w", "--config.data.train=tfds:cifar10:train", "--config.data.tfds_dir={tmp}/tfds"],
        ["cifar10", "array_record"],
    ),
    "unknown policy": ([DIGITS, "--workdir={tmp}/w", "--config.data.augment.policy=randomaug"], ["randomaug"]),
    "negative mixup": ([DIGITS, "--workdir={tmp}/w", "--config.data.augment.mixup=-1.0"], ["mixup", "-1"]),
    "decay pattern matches nothing": ([DIGITS, "--workdir={tmp}/w", "--config.optimizer.decay=.*/kernal"], ["kernal"]),
    "no source to fine-tune": (["--config=mae_digits_finetune", "--workdir={tmp}/w"], ["--config.init_from=SOURCE"]),
    "unmeasured best": ([DIGITS, "--workdir={tmp}/w", "--config.checkpoint.best=classification/top2"], ["classification/top2", "classification/top"]),
    "init_from nowhere": ([DIGITS, "--workdir={tmp}/w", "--config.init_from={tmp}/none"], ["{tmp}/none"]),
    "workdir is a file": ([DIGITS, "--workdir={tmp}/file"], ["{tmp}/file"]),
    "no texts": ([CLIP, "--workdir={tmp}/w", "--config.data.templates=()"], ["data.templates", "digits:train"]),
    "template without a place": ([CLIP, "--workdir={tmp}/w", "--config.data.templates=('a digit',)"], ["'a digit'", "'{{}}'"]),
    "missing vocabulary": ([CLIP, "--workdir={tmp}/w", "--config.data.tokenizer=clip:{tmp}/none.gz"], ["{tmp}/none.gz", "https"]),
    "missing shard": ([CLIP, "--workdir={tmp}/w", "--config.data.train=wds:{tmp}/{{0..3}}.tar"], ["{tmp}/0.tar", "No such file"]),
    "long text": ([CLIP, "--workdir={tmp}/w", "--config.data.context_length=8", "--config.data.long_texts=raise"], ["number 0", "27 tokens", "8"]),
    "classification without classes": ([DIGITS, "--workdir={tmp}/w", "--config.data.train=shapes:train"], ["shapes:train", "classes"]),
    "tower of no CLIP": ([DIGITS, "--workdir={tmp}/w", "--config.init_from=image={tmp}/none"], ["{tmp}/none"]),
    "evaluator of another task": ([DIGITS, "--workdir={tmp}/w", "--config.evals.zero_shot.every=1 epochs"], ["zero_shot", "classification"]),
    "nothing to evaluate": (["--mode=eval", "--workdir={tmp}/w"], ["{tmp}/w", "no folder"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_one_clear_line(case, files, monkeypatch, capfd):
    argv, words = CASES[case]
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(sys, "argv", ["main", *(word.format(tmp=files) for word in argv)])
    with pytest.raises(SystemExit) as end:
        main.main()
    error = capfd.readouterr().err
    lines = error.strip().splitlines()
    assert end.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: "), error
    for word in words:
        assert word.format(tmp=files) in lines[0], lines[0]
    assert not (files / "w" / "config.json").exists()
