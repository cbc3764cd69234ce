import contextlib
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.training.reporting import Means, Reporter
from vision_jax.training.targets import truncate_jsonl
from vision_jax.training.terminal import Terminal
from vision_jax.training.throughput import CLOCKED, Spans


class Clock:
    """A clock that moves only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, spans, seconds, name=None):
        with spans(name) if name else contextlib.nullcontext():
            self.now += seconds


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def make(workdir, **changes):
    terminal = {"terminal": Terminal(None)}
    return Reporter(workdir, **{"total_steps": 100, "batch_size": 8, "epoch_size": 80, **terminal, **changes})


def values(loss, skipped_in_row=0, **others):
    return {"loss": loss, "skipped": 0, "skipped_in_row": skipped_in_row, "broken": 0, "grad_norm": 9.0, **others}


def test_resumed_file_equals_an_uninterrupted_one(tmp_path):
    def run(folder, start, stop):
        reporter = make(folder, start_step=start)
        for step in range(start + 1, stop + 1):
            if step % 10 == 0:
                reporter.write(step, {"train/loss": 1 / step, "train/skipped": 0})
        reporter.close()

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run(whole, 0, 100)
    run(killed, 0, 57)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "train/lo')
    run(killed, 40, 72)
    run(killed, 40, 100)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sorted(path.name for path in killed.iterdir()) == ["metrics.jsonl"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 9), st.integers(0, 200))
def test_truncation_at_any_byte(tmp_path_factory, steps, start, cut):
    """Whatever a kill left of the file, exactly the whole lines up to the step survive."""
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    written = [json.dumps({"step": step, "classification/top1": index}) for index, step in enumerate(steps)]
    content = "".join(line + "\n" for line in written)[:cut]
    path.write_text(content)
    rows = truncate_jsonl(path, start)
    whole = [line for line in written if line in content.splitlines()]
    expected = [json.loads(line) for line in whole if 0 < json.loads(line)["step"] <= start]
    assert rows == expected == lines(path)
    assert not path.read_text() or path.read_text().endswith("\n")


def test_a_run_from_the_start_drops_what_stood_there(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "classification/top1": 0.1}\n{"step": 3}\n')
    make(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_lines_are_valid_json_and_on_disk_at_once(tmp_path):
    reporter = make(tmp_path)
    reporter.write(1, {"a": math.nan, "b": -math.inf, "c": jnp.float32(0.5), "d": 3})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": None, "c": 0.5, "d": 3}
    assert '"d": 3}' in text


def test_other_processes_are_silent(tmp_path, capsys):
    reporter = make(tmp_path, is_writer=False, callbacks=[pytest.fail])
    reporter.write(1, {"loss": 1.0})
    reporter.progress(100, values(1.0), lambda: 0.1)
    reporter.evaluated(100, {"a/b": 1.0}, is_best=True)
    assert reporter.summary()["loss"] == 1.0
    reporter.close()
    assert not any(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_progress_tells_means_rates_and_the_time_left(capsys):
    clock, spans = Clock(), None
    spans = Spans(clock)
    terminal = Terminal(sys.stdout, clock=clock)
    start = {"spans": spans, "terminal": terminal, "clock": clock, "start_step": 20, "best": "classification/top1"}
    reporter = make(None, **start, flops_per_step=3e12, peak_flops=4e12)
    clock.work(spans, 50, "compile")
    reporter.write(20, {"classification/top1": 0.75, "other/top1": 0.5})
    for step in range(21, 41):
        clock.work(spans, 1, "data")
        clock.work(spans, 3, "step")
        clock.work(spans, 1, "eval")
        reporter.progress(step, values(1.0 if step % 2 else 3.0, top1=0.5), lambda: 0.125)
    reporter.progress(100, values(math.nan, skipped_in_row=1, top1=math.nan), lambda: 0.25)
    reporter.close()
    # Lines at the first step and the last, every 30 s between, and none for a step whose update was skipped.
    shown = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [parts[0] for parts in shown] == [f"step {n}/100" for n in (21, 27, 33, 39, 100)]
    assert shown[0] == ["step 21/100", "epoch 2.1/10", "loss 1", "top1 0.5", "classification/top1 0.75", "lr 0.125"]
    # Four seconds of training a step: 8 / 4 images/s and 3 / 4 TFLOP/s of 4; five seconds of everything.
    rest = ["5 min 05 s left", "2 images/s", "lr 0.125", "MFU 18.8%", "waiting for data 25%"]
    assert shown[1][5] == "6 min 05 s left"
    assert shown[3] == ["step 39/100", "epoch 3.9/10", "loss 1.947", "top1 0.5", "classification/top1 0.75", *rest]
    assert shown[4][2:4] == ["loss 2", "top1 0.5"] and "left" not in " ".join(shown[4])


def test_round_steps_have_a_line_of_their_own(capsys):
    clock = Clock()
    reporter = make(None, total_steps=1300, terminal=Terminal(sys.stdout, clock=clock), clock=clock)
    for step in range(1, 1301):
        reporter.progress(step, values(1.0), lambda: 0.1)
    steps = [int(line.split("/")[0].split()[1].replace(",", "")) for line in capsys.readouterr().out.splitlines()]
    assert steps == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1300]


def test_evaluations_are_lines_that_stay(capsys):
    reporter = make(None, terminal=Terminal(sys.stdout))
    measured = {"minival/top1": 0.5, "minival/examples": 100, "drawn/picture": np.zeros((2, 2, 3), np.uint8)}
    reporter.evaluated(1200, measured, is_best=True)
    reporter.evaluated(1300, {"drawn/picture": measured["drawn/picture"]}, is_best=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "evaluation at step 1,200: minival/top1 0.5  (best so far, saved)"
    assert second == "evaluation at step 1,300: done"


def test_summary_holds_everything(tmp_path):
    def open_reporter(start):
        clock = Clock()
        spans = Spans(clock)
        clock.work(spans, 7, "init")
        reporter = make(tmp_path, spans=spans, start_step=start, flops_per_step=1e12, peak_flops=1e12, clock=clock)
        return clock, spans, reporter

    *_, reporter = open_reporter(0)
    reporter.write(5, {"classification/top1": 0.25, "train/loss": 9.0})
    reporter.write(50, {"train/loss": 3.0})
    reporter.close()
    clock, spans, reporter = open_reporter(40)
    clock.work(spans, 30, "data")
    clock.work(spans, 90, "step")
    clock.work(spans, 3)
    reporter.write(
        100, {"train/loss": 1.5, "train/broken": 6, "train/grad_norm": math.nan, "classification/top5": 0.75}
    )
    best = {"metric": "classification/top1", "value": 0.25, "step": 5}
    returned = reporter.summary({"best": best})
    reporter.close()

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    seconds = {"init": 7, "compile": 0, "data": 30, "step": 90, "eval": 0, "checkpoint": 0, "other": 3}
    assert summary == returned
    assert summary == {
        "step": 100,
        "best": best,
        "classification/top1": 0.25,  # from before the resumption
        "classification/top5": 0.75,
        "train/loss": 1.5,
        "train/broken": 6,
        "train/grad_norm": None,
        "examples_seen": 794,
        "examples_skipped": 6,
        "images_per_second": 4.0,  # 60 steps of 8 in 120 s
        "data_share": 0.25,
        "mfu": 0.5,
        "wall_seconds": 130.0,
        "seconds": seconds,
    }


def test_timing_is_of_the_steps_since_the_last(tmp_path):
    clock = Clock()
    spans = Spans(clock)
    reporter = make(tmp_path, spans=spans, clock=clock, flops_per_step=3e12, peak_flops=4e12)
    clock.work(spans, 5)
    for step, (data, work) in ((2, (1, 3)), (4, (6, 2))):
        clock.work(spans, data, "data")
        clock.work(spans, work, "step")
        clock.work(spans, 10, "eval")
        reporter.write(step, {f"train/{name}": value for name, value in reporter.timing(step).items()})
    reporter.close()
    first, second = lines(tmp_path / "metrics.jsonl")
    assert first == {"step": 2} | dict(zip(CLOCKED, (4.0, 0.25, 0.375, 19.0), strict=True))
    assert second == {"step": 4} | dict(zip(CLOCKED, (2.0, 0.75, 0.1875, 37.0), strict=True))
    again = make(tmp_path, spans=Spans(clock), clock=clock, start_step=3)
    clock.now += 2
    assert again.timing(3) == {"seconds": 21.0}  # it goes on from the last line that counts


def test_means_leave_out_skipped_steps():
    means = Means()
    for step in (values(1.0), values(math.nan, 1), values(0.0, 2)):
        means.add(step)
    going_on = Means(**json.loads(json.dumps(means.kept)))
    for each in (means, going_on):
        each.add(values(4.0))
        assert each.take() == {"loss": 2.5, "grad_norm": 9.0} and each.take() == {}
        each.add(values(math.inf, 1))
        assert math.isnan(each.take()["loss"])
