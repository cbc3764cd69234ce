"""A small work folder of an earlier version, whose run had come half way: every later one loads, evaluates and continues it.

python tests/test_golden_work_folder.py     # writes tests/golden/work_folder/ and what is expected of it anew

That is only right where the format of work folders changes on purpose, and old ones are refused in one line.
"""

import copy
import json
import pathlib
import shutil
import signal
import tempfile

import conftest  # noqa: F401  eight devices, as the command below has them, too
import jax
import numpy as np
import pytest
from absl import flags

import vision_jax as vj
from vision_jax.config import base_config
from vision_jax.models.stacking import path_name
from vision_jax.training import loop
from vision_jax.weights.work_folder import locate, metric_rows, read_run_config

FOLDER = pathlib.Path(__file__).parent / "golden" / "work_folder"
EXPECTED = FOLDER.with_name("work_folder.json")
HALF, WHOLE = 10, 20  # steps
TOLERANCE = 1e-3  # relative: Adam makes much of gradients that are little but rounding


def tiny_config():
    c = base_config()
    c.model = dict(name="vit_ti16", patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16, pool="gap")
    c.model = dict(head_batch_norm=True, representation_size=8)  # so that there are statistics
    c.data.image_size, c.data.eval_resize = 16, "squash"
    c.data.augment = dict(crop_area=None, flip=False, shift=0.1)
    c.batch_size, c.duration, c.evals.batch_size = 64, f"{WHOLE} steps", 360
    c.optimizer = dict(ema=0.9, weight_decay=0.05)
    c.schedule = dict(base_lr=3e-3, warmup="2 steps")
    c.checkpoint = dict(every=f"{HALF} steps")
    c.evals.classification.every = f"{HALF} steps"
    c.log = dict(every="5 steps", tensorboard=False, compile_cache="")
    return c


def numbers(folder: pathlib.Path) -> dict[str, float]:
    """Path -> norm of every array of the variables that evaluation uses, from the newest checkpoint."""
    _, variables = vj.load_pretrained(folder)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {path_name(path): float(np.linalg.norm(leaf)) for path, leaf in leaves}


def write() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = pathlib.Path(scratch) / "run"
        loop.train(tiny_config(), run)
        final = numbers(run)
        shutil.rmtree(run / "checkpoints" / str(WHOLE))
        rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        shutil.copy(run / "config.json", FOLDER)
        (FOLDER / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] <= HALF))
        shutil.copytree(run / "checkpoints", FOLDER / "checkpoints")
    for path in FOLDER.rglob("commit_success.txt"):  # whose presence counts; it names the scratch folder
        path.write_text("Checkpoint commit was successful\n")
    evaluated = loop.evaluate(read_run_config(FOLDER), FOLDER)
    expected = {"evaluated": evaluated, "half": numbers(FOLDER), "final": final}
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


@pytest.fixture
def work(tmp_path):
    return pathlib.Path(shutil.copytree(FOLDER, tmp_path / "work"))


EXPECTATIONS = json.loads(EXPECTED.read_text()) if EXPECTED.is_file() else {}


def assert_near(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name] == pytest.approx(expected[name], rel=TOLERANCE, abs=TOLERANCE / 10), name


def test_it_is_small_and_holds_no_path_of_its_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(files) < 30 and sum(path.stat().st_size for path in files) < 300_000
    assert not [path for path in files if any(root in path.read_bytes() for root in (b"/tmp", b"/home", b"/root"))]


def test_it_loads_and_evaluates(work):
    assert_near(numbers(work), EXPECTATIONS["half"])
    assert_near(loop.evaluate(read_run_config(work), work), EXPECTATIONS["evaluated"])


def test_its_best_checkpoint_is_found(work):
    assert read_run_config(work).checkpoint.best == "classification/top1"
    assert locate(work, "best").name == str(HALF)


def settings() -> dict:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    names = ("jax_default_matmul_precision", "jax_compilation_cache_dir")
    return handlers | {name: getattr(jax.config, name) for name in names} | {"flags": flags.FLAGS.is_parsed()}


def test_it_goes_on_to_the_end_and_leaves_the_process_as_it_was(work, tmp_path):
    config = read_run_config(work)
    config.precision.matmul, config.log.compile_cache = "default", str(tmp_path / "cache")
    kept, before = copy.deepcopy(config), settings()
    summary = loop.train(config, work)
    assert_near(numbers(work), EXPECTATIONS["final"])
    assert config == kept and settings() == before
    assert json.loads((work / "summary.json").read_text()) == summary
    assert [path.name for path in work.glob(f"checkpoints/{WHOLE}")]
    evaluated = [row["step"] for row in metric_rows(work) if "classification/top1" in row]
    assert evaluated == [HALF, WHOLE] and "eval/" not in (work / "metrics.jsonl").read_text()


if __name__ == "__main__":
    write()
