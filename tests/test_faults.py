"""What experiments/faults does to a run, in part; `python experiments/faults/run.py` does all of it."""

import json
import os
import pathlib
import shutil
import signal
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "experiments" / "faults"))

import drive
import locking
import lost_parts
import run as matrix

SHORT = ("--config.duration=200 steps", "--config.checkpoint.every=1000 steps")  # saved only where something happens


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    made = drive.Scratch(tmp_path_factory.mktemp("faults"), kills=8, quick=True)
    yield made
    made.close()


@pytest.mark.slow
def test_second_writer_then_group_sigterm_then_killed_worker(scratch):
    """One run after another in one work folder, to the bits and metrics of a run that nothing disturbed."""
    workdir, two = scratch.folder("together"), "--config.data.workers=2"
    first = scratch.start(workdir, *SHORT, two)
    first.until_step(workdir, 20)
    first.tell(signal.SIGSTOP)  # a busy machine could end it before the second start has looked
    second = scratch.train(workdir, *SHORT)
    first.tell(signal.SIGCONT)
    assert locking.refused(second, first) == []
    first.tell(signal.SIGTERM, group=True)
    assert drive.stopped_by(first.finish(), signal.SIGTERM, workdir) == []

    again = scratch.start(workdir, *SHORT, two)
    again.until_step(workdir, drive.last_step(workdir) + 10)
    os.kill(again.workers()[-1], signal.SIGKILL)
    assert lost_parts.saved_first(again.finish(), workdir) == []
    assert scratch.continued(workdir, like=SHORT) == []


@pytest.mark.matrix
@pytest.mark.parametrize("name", matrix.SCENARIOS)
def test_every_row_is_as_promised(scratch, name):
    """One case of each kind, eight kills, and every damage to every file."""
    rows = list(matrix.of(name, scratch))
    assert rows and [(row.done, row.wrong) for row in rows if row.wrong] == []


@pytest.mark.slow
def test_the_harness_tells_other_bits_metrics_and_leftovers(scratch):
    """A harness that sees nothing would find nothing wrong."""
    quiet, other = scratch.quiet(*SHORT), scratch.folder("other")
    assert drive.differences(quiet, quiet) == []
    (other / "checkpoints/200.orbax-checkpoint-tmp").mkdir(parents=True)
    assert "its last checkpoint is []" in drive.differences(other, quiet)[0]
    shutil.copytree(quiet / "checkpoints/200", other / "checkpoints/200")
    lines = [json.loads(line) for line in (quiet / "metrics.jsonl").read_text().splitlines()]
    lines[7]["train/loss"] += 1e-7
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert drive.differences(other, quiet) == [
        f"metrics.jsonl differs from line 7 ({len(lines)} and {len(lines)} lines)",
        "left behind: 200.orbax-checkpoint-tmp",
    ]
    shutil.rmtree(other / "checkpoints/200")
    older = drive.checkpoints(quiet)[-2]
    shutil.copytree(quiet / "checkpoints" / str(older), other / "checkpoints/200")
    assert drive.differences(other, quiet)[0].startswith("other bits in ")
