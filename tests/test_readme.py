"""The commands and programs of README.md do what it says, shortened where they would take long."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax.cli import COMMANDS
from vision_jax.main import parse

REPO = pathlib.Path(__file__).parents[1]
TEXT = (REPO / "README.md").read_text()
# What needs data or machines that are not here; such commands are read, and no more.
ELSEWHERE = (
    "vit_s16",
    "runs/s16",
    "vit_b16_finetune_384",
    "cc12m",
    "lit_vitb16",
    "--coordinator",
    "plan ",
    "ViT-B-32.pt",
    "openai/",
)
SHORT = {"train": ["--config.duration=4 steps", "--config.checkpoint.every=2 steps"]}


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(("vision-jax", "timeout"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where README's commands find what they name: photos, pictures, and the smallest of published models."""
    folder = tmp_path_factory.mktemp("readme")
    pictures = np.random.default_rng(0)
    files = ["cat.jpg", "new.jpg", "seven.png", *(f"holidays/{i}.jpg" for i in range(2))]
    files += [f"photos/{part}/{name}/{i}.jpg" for part in ("train", "test") for name in "ab" for i in range(4)]
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    model = vj.create_model("vit", patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16, num_classes=1000)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    vj.save_pretrained(folder / "google/vit-base-patch16-224", model, variables, "hf", image_size=32)
    return folder


def test_no_line_of_code_is_too_long():
    lines = [line for language in ("bash", "python", "") for block in blocks(language) for line in block.splitlines()]
    assert len(lines) > 60 and max(map(len, lines)) <= 100


def test_every_command_is_one(folder, monkeypatch):
    """What trains or evaluates is read to its last key; of the others, that there is such a command."""
    monkeypatch.chdir(folder)
    for line in commands():
        words = shlex.split(line)
        words = words[words.index("vision-jax") + 1 :]
        assert words[0] in COMMANDS and "#" not in words, line  # zsh takes no comment behind a command
        if words[0] == "train":
            args, config, _ = parse(words[1:])
            assert config.task and args.workdir


@pytest.mark.slow
def test_commands_and_programs_run(folder, monkeypatch):
    """In README's order, each in the folder that the ones before it have left."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    first = "vision-jax train --config=vit_digits --workdir=runs/vit_digits"  # of the two commands
    for line in [first, *commands()]:
        if any(word in line for word in ELSEWHERE):
            continue
        words = shlex.split(line)
        if "KILL" in words:  # by a clock that is no test's; others kill
            continue
        words = words[words.index("vision-jax") + 1 :]
        words += SHORT.get(words[0], [])
        done = subprocess.run(
            [sys.executable, "-c", "from vision_jax.cli import main; main()", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (line, done.stdout[-1000:], done.stderr[-2000:])
    whole, killed = (folder / "runs" / name / "metrics.jsonl" for name in ("whole", "killed"))
    losses = [[json.loads(row).get("train/loss") for row in path.read_text().splitlines()] for path in (whole, killed)]
    assert losses[0] == losses[1]
    monkeypatch.chdir(folder)
    for block in blocks("python"):
        if "mine" in block and "c.model" in block:  # a config of parts of one's own: experiments/extending
            continue
        code = textwrap.dedent(block).replace('"20 epochs"', '"20 steps"').replace('"40 epochs"', '"30 steps"')
        code = code.replace("image_size=384", "image_size=64").replace("float32[1, 224, 224, 3]", "")
        scope = {"images": np.zeros((2, 16, 16, 3), np.float32)}
        exec(compile(code, "README.md", "exec"), scope)
