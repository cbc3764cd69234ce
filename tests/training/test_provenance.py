"""Who trained a run, as its work folder keeps it."""

import json
import shutil
import subprocess
import sys

from tiny_run import config_of

from vision_jax.config import to_dict
from vision_jax.training import loop
from vision_jax.training.provenance import KEPT, commits, extended
from vision_jax.weights.work_folder import metric_rows, read_run_config


def record(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_every_process_that_trains_leaves_its_entry(straight, data, tmp_path):
    (first,) = record(straight)["starts"]
    assert first["step"] == 0 and first["devices"] == "8 x cpu" and first["processes"] == 1
    assert (
        first["versions"].keys() == {"python", "vision_jax", "jax", "flax", "numpy"}
        and sys.orig_argv[0] in first["command"]
    )
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["start"] == {name: value for name, value in first.items() if name != "step"}
    values = {row["step"]: row["classification/top1"] for row in metric_rows(straight) if "classification/top1" in row}
    best = max(values, key=lambda step: (values[step], -step))
    assert summary["best"] == {"metric": "classification/top1", "value": values[best], "step": best}

    shutil.copytree(straight, tmp_path / "run")
    loop.train(config_of(data), tmp_path / "run", name="mine")  # it is finished
    assert record(tmp_path / "run")["starts"] == [first]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    loop.train(config_of(data), tmp_path / "run", name="mine")
    assert [(start["step"], start["config"]) for start in record(tmp_path / "run")["starts"]] == [(0, ""), (4, "mine")]
    assert to_dict(read_run_config(tmp_path / "run")) == to_dict(read_run_config(straight))


def test_the_first_and_the_newest_entries_are_kept():
    starts = []
    for step in range(KEPT + 50):
        starts = extended(starts, {"step": step})
    assert [start["step"] for start in starts] == [0, *range(51, KEPT + 50)]


def test_commits(tmp_path):
    """Of the repository that the config's file lies in, and whether something there is changed."""
    file, plain = tmp_path / "repo" / "mine.py", tmp_path / "plain.py"
    file.parent.mkdir()
    file.write_text("1")
    plain.write_text("1")
    git = ["git", "-C", str(file.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert commits(f"{file}:b16")["config"] == commit
    file.write_text("2")
    assert commits(str(file))["config"] == f"{commit}-dirty"
    assert "config" not in commits("vit_digits") and "config" not in commits(str(plain))
