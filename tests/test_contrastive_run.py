"""Contrastive runs as users start them: from tar shards, killed and continued, and with a tower of another run."""

import io
import json
import signal
import tarfile

import chex
import jax
import numpy as np
import pytest
from test_main import assert_same_run, finish, start, wait_for

from vision_jax.data import open_source
from vision_jax.weights.work_folder import load_variables, locate

pytestmark = pytest.mark.slow  # runs of minutes; the default suite steps CLIP's configs and kills a classifier

CLIP = [
    "--config=configs/clip_shapes.py",
    "--config.model.image.width=32",
    "--config.model.image.depth=1",
    "--config.model.image.num_heads=2",
    "--config.model.text_width=24",
    "--config.model.text_depth=1",
    "--config.data.image_size=32",
    "--config.batch_size=16",
    "--config.duration=60 steps",
    "--config.schedule.warmup=5 steps",
    "--config.checkpoint.every=7 steps",
    "--config.evals.retrieval.every=30 steps",
    "--config.data.max_broken=0.1",
    "--config.log.every=5 steps",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards of 40 scenes each, with two captions a picture; one picture is no image and one key has no caption."""
    from PIL import Image

    folder, source = tmp_path_factory.mktemp("shards"), open_source("shapes:train")
    for shard in range(2):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as file:
            for i in range(shard * 40, shard * 40 + 40):
                picture = io.BytesIO()
                Image.fromarray(source[i]["image"]).save(picture, "PNG")
                data = b"no picture" if i == 3 else picture.getvalue()
                members = {"png": data, "json": json.dumps({"caption": source[i]["captions"]}).encode()}
                for suffix, content in list(members.items())[: 1 if i == 50 else 2]:
                    info = tarfile.TarInfo(f"{i:05d}.{suffix}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    return f"--config.data.train=wds:{folder}/{{000..001}}.tar"


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    _, err = finish(start(workdir, *CLIP, shards))
    assert "1 x no caption" in err and "00050" in err and "00003" in err
    return workdir


def test_a_kill_changes_nothing_of_a_run_from_shards(straight, shards, tmp_path):
    process = start(tmp_path, *CLIP, shards, "--config.data.workers=2")
    wait_for(tmp_path / "metrics.jsonl", process, more_than=2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: make it longer"
    finish(start(tmp_path, *CLIP, shards))
    assert_same_run(straight, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["train/broken"] > 0 and "retrieval/i2t_r10" in summary


def test_a_locked_tower_of_another_run(straight, shards, tmp_path):
    init = f"--config.init_from=image={straight}"
    extra = ["--config.optimizer.freeze=image/.*", "--config.duration=3 steps", "--config.schedule.warmup=1 steps"]
    out, _ = finish(start(tmp_path, *CLIP, shards, init, *extra))
    assert "text/*" in out.partition("newly initialised")[2]
    before, after = (
        jax.tree.map(np.asarray, load_variables(locate(folder)))["params"] for folder in (straight, tmp_path)
    )
    chex.assert_trees_all_equal(after["image"], before["image"])
    assert not np.array_equal(after["text"]["token_embedding"], before["text"]["token_embedding"])


def test_evaluation_alone_gives_the_run_s_last_metrics(straight):
    out, _ = finish(start(straight, "--mode=eval"))
    summary = json.loads((straight / "summary.json").read_text())
    assert f"retrieval/t2i_r5 {summary['retrieval/t2i_r5']:.5g}" in out
