"""vision_jax.visualize as users run it, on the work folder of a tiny masked autoencoder."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vision_jax.command_line import load_config
from vision_jax.evaluation.picture_grid import GAP, SIDE, TEXT
from vision_jax.training.loop import train

REPO = pathlib.Path(__file__).parents[1]


def run(*argv):
    command = [sys.executable, "-m", "vision_jax.visualize", *map(str, argv)]
    return subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps on digits of 16 pixels; the checkpoints of both are there."""
    c = load_config("configs/mae_digits.py")
    c.model = dict(width=16, depth=1, num_heads=2, mlp_dim=24)
    c.model = dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=12)
    c.data.image_size, c.batch_size, c.duration, c.schedule.warmup = 16, 16, "2 steps", "0 steps"
    c.checkpoint.every = "1 steps"
    c.evals.reconstruction.every = c.evals.knn.every = ""
    c.log = dict(compile_cache="", tensorboard=False)
    folder = tmp_path_factory.mktemp("mae")
    train(c, folder)
    return folder


def cells(path, rows):
    """uint8[rows, 4, 160, 160, 3] of the grid in the file: pictures of 16 pixels tenfold, below their titles."""
    grid = np.asarray(Image.open(path))
    top, step = 2 * GAP + TEXT, SIDE + GAP
    assert grid.shape[0] == top + step * rows
    whole = grid[top:, GAP : GAP + 4 * step].reshape(rows, step, 4, step, 3)
    return whole.swapaxes(1, 2)[:, :, :SIDE, :SIDE]


def test_the_first_evaluation_images(workdir, tmp_path):
    result = run(f"--workdir={workdir}")
    path = workdir / "pictures" / "visualize.png"
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"{path}: 8 pictures, PSNR of the hidden pixels -?\d+\.\d\d dB\n", result.stdout)
    grid = cells(path, 8)
    other = tmp_path / "new folder" / "other.png"
    result = run(f"--workdir={workdir}", "--count=3", "--seed=1", "--checkpoint=1", f"--out={other}")
    assert result.returncode == 0 and f"{other}: 3 pictures" in result.stdout, result.stderr
    changed = cells(other, 3) != grid[:3]
    assert not changed[:, 0].any()  # the same images, of which something else is hidden
    assert changed[:, 1].any()


def test_pictures_of_one_s_own(workdir, tmp_path):
    """Files and folders, of any size and format; one that cannot be read is named and passed over."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "holidays" / "sea"
    folder.mkdir(parents=True)
    single = tmp_path / "cat.jpg"
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)).save(single)
    Image.fromarray(rng.integers(0, 256, (40, 20), np.uint8)).save(folder / "a.PNG")
    Image.new("RGB", (16, 16), (200, 100, 0)).save(folder / "c.png")
    (folder / "b.jpeg").write_bytes(single.read_bytes()[:700])
    (folder / "notes.txt").write_text("no picture")
    out = tmp_path / "mine.png"
    result = run(f"--workdir={workdir}", f"--images={single},{folder.parent}", f"--out={out}")
    assert result.returncode == 0 and "3 pictures" in result.stdout, result.stderr
    assert "b.jpeg" in result.stderr and "notes.txt" not in result.stderr
    grid = cells(out, 3)
    assert (grid[2, 0] == (200, 100, 0)).all()
    squashed = np.asarray(Image.open(single).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(grid[0, 0, ::10, ::10], squashed)


CASES = {
    "no work folder": (["--workdir={tmp}/none"], ["{tmp}/none"]),
    "nothing said": ([], ["--workdir"]),
    "misspelt flag": (["--workdir={run}", "--imgs=cat.jpg"], ["--imgs"]),
    "missing picture": (["--workdir={run}", "--images={tmp}/cat.jpg"], ["--images", "{tmp}/cat.jpg"]),
    "folder without pictures": (["--workdir={run}", "--images={tmp}/empty"], ["--images", "{tmp}/empty", ".png"]),
    "nothing readable": (["--workdir={run}", "--images={tmp}/file"], ["can be read"]),
    "no pictures asked for": (["--workdir={run}", "--count=0"], ["--count", "0"]),
    "wrong count": (["--workdir={run}", "--count=many"], ["--count", "many"]),
    "negative seed": (["--workdir={run}", "--seed=-1"], ["--seed", "-1"]),
    "missing checkpoint": (["--workdir={run}", "--checkpoint=7"], ["7"]),
    "another task": (["--workdir={tmp}/classifier"], ["{tmp}/classifier", "classification", "masked_autoencoding"]),
    "out is below a file": (["--workdir={run}", "--count=1", "--out={tmp}/file/a.png"], ["--out", "{tmp}/file/a.png"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_one_clear_line(case, workdir, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "classifier").mkdir()
    (tmp_path / "file").write_text("no picture")
    config = json.loads((workdir / "config.json").read_text())
    config |= {"task": "classification", "model": {"name": "vit_ti16", "num_classes": 10}}
    (tmp_path / "classifier" / "config.json").write_text(json.dumps(config))
    argv, words = CASES[case]
    result = run(*(word.format(tmp=tmp_path, run=workdir) for word in argv))
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("skipping broken image")]
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word.format(tmp=tmp_path) in lines[0], lines[0]
