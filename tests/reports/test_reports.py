"""What is shown of runs: the table, the curves, the page, from the work folder that tests/golden keeps and changes of it."""

import html.parser
import json
import os
import pathlib
import re
import shutil
import socket
import sys

import numpy as np
import pytest

from vision_jax import plot, report, runs
from vision_jax.errors import ConfigError
from vision_jax.reports.mistakes import classify
from vision_jax.reports.records import differing, read_record, read_records
from vision_jax.reports.tables import aligned
from vision_jax.training import lock

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "work_folder"
TOP1 = json.loads(GOLDEN.with_name("work_folder.json").read_text())["evaluated"]["classification/top1"]


def change(workdir, **values):
    path = workdir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path):
    """Two runs: one at step 10 of 20, one of other keys that is finished and says who trained it."""
    stopped, finished = (pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "runs" / name)) for name in ("<i>one", "two"))
    start = {"step": 0, "date": "2026-01-02 03:04:05 UTC", "config": "mine.py:x", "command": "python -m it --x='a b'"}
    start |= {"commits": {"vision_jax": "abcd-dirty"}, "versions": {"jax": "0.11"}, "devices": "4 x TPU v5e"}
    config = json.loads((stopped / "config.json").read_text())
    change(finished, batch_size=32, model=config["model"] | {"width": 24}, starts=[start])
    with (finished / "metrics.jsonl").open("a") as file:
        for step, top1 in ((15, 0.5), (20, 0.4)):
            file.write(json.dumps({"step": step, "classification/top1": top1, "train/seconds": 61.0}) + "\n")
    summary = {"step": 20, "images_per_second": 1234.5, "examples_skipped": 7, "seconds": {"data": 1.0, "step": 3.0}}
    (finished / "summary.json").write_text(json.dumps(summary))
    return stopped.parent


def run(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    command.main()


def test_the_table(folder, monkeypatch, capsys):
    run(monkeypatch, runs, folder)
    out = capsys.readouterr().out
    first, second = out.splitlines()[1:3]
    assert re.search(r"<i>one +vit_ti16 +stopped at step 10 of 20 +– +classification/top1 0.2167 at step 10", first)
    assert re.search(r"two +mine.py:x +finished +1 min 01 s +classification/top1 0.5 at step 15", second)
    measured, keys = out.partition("last measured")[2].split("keys of the config that differ")
    assert re.search(r"classification/top1 +0.2167 +0.4\n", measured) and re.search(
        r"train/loss +2.246 +2.246", measured
    )
    assert [line.split() for line in keys.splitlines() if line] == [
        ["run", "batch_size", "model.width"],
        ["<i>one", "64", "16"],
        ["two", "32", "24"],
    ]
    run(monkeypatch, runs, folder / "two")
    alone = capsys.readouterr().out
    assert re.search(r"data.augment.crop_area +None +\(0.08, 1.0\)", alone) and re.search(r"model.depth +1 +–", alone)


def test_a_run_that_trains_is_told_from_one_that_was_killed(folder):
    workdir = folder / "two"
    with lock.WriterLock(workdir):
        assert read_record(workdir).state == "running, step 20 of 20"
        said = json.loads((workdir / "lock").read_text())
    assert read_record(workdir).state == "finished"
    for changes, runs_on in (({}, False), ({"host": "elsewhere"}, True), ({"process": os.getpid()}, True)):
        (workdir / "lock").write_text(json.dumps(said | {"process": 2**22 + 1, "host": socket.gethostname()} | changes))
        assert bool(lock.owner(workdir)) == runs_on, changes
    os.utime(workdir / "lock", (0, 0))  # long silent
    assert not lock.owner(workdir)


def test_columns_that_do_not_fit_follow_below():
    rows = [["a", "1", "22"], ["b", "333", "4"]]
    assert aligned(["", "x", "y"], rows, 80) == "     x   y\na    1  22\nb  333   4"
    assert aligned(["", "x", "y"], rows, 8) == "     x\na    1\nb  333\n\n    y\na  22\nb   4"


def test_curves(folder, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    from vision_jax.reports.curves import draw, make_figure

    records, figure = read_records([folder]), make_figure("a test")
    draw(figure, records, ["classification/top1"], over="epoch")
    (axis,) = figure.axes
    for record, line in zip(records, axis.lines, strict=True):
        step, value = record.history["classification/top1"]
        expected = step * record.config.batch_size / 1437, value
        np.testing.assert_allclose(line.get_xydata(), np.stack(expected, axis=1))
    assert axis.get_ylabel() == "share of examples" and len({line.get_color() for line in axis.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["<i>one", "two"]
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        run(monkeypatch, plot, folder, f"--out={tmp_path / name}")
        assert (tmp_path / name).read_bytes().startswith(start) and "<i>one, two" in capsys.readouterr().out
    for arguments, words in {
        ("--metrics=classification/top2", "--out=a.png"): "did you mean 'classification/top5'?",
        ("--out=a.jpg",): "--out must end in .png",
    }.items():
        with pytest.raises(SystemExit):
            run(monkeypatch, plot, folder, *arguments)
        assert words in capsys.readouterr().err


class Page(html.parser.HTMLParser):
    """Tags that are open, text by tag, and what is loaded."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.tags, self.cells = [], [], set(), []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "code", "b"):
            self.cells.append(data)


def test_the_page(folder, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    picture = folder / "<i>one" / "pictures" / "reconstruction" / "reconstruction_00000010.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"not looked at")
    run(monkeypatch, report, folder / "<i>one", f"--against={folder / 'two'}", f"--out={tmp_path / 'page.html'}")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert not page.open and "script" not in page.tags and "i" not in page.tags
    assert page.loaded and all(source.startswith("data:image/") for source in page.loaded)
    assert "&lt;i&gt;one" in text and f"{TOP1:.2%} are right" in text
    assert {"batch_size", "64", "32", "7"} <= set(page.cells) and any(cell in ("1,234", "1,235") for cell in page.cells)
    assert "reconstruction, step 10" in text and text.count("taken for") >= 24

    run(monkeypatch, report, folder / "two", f"--out={tmp_path / 'two.html'}")
    two = Page((tmp_path / "two.html").read_text())
    assert re.search(r"evaluation cannot be repeated here: .*checkpoints/10", two.text)  # which is of another width
    assert {"python -m it --x='a b'", "4 x TPU v5e", "jax 0.11", "vision_jax abcd-dirty"} <= set(two.cells)


def test_the_mistakes_are_those_of_the_classifier(folder):
    found = classify(folder / "<i>one", "best", most=5)
    assert found.accuracy == pytest.approx(TOP1) and found.confusion.sum() == 360 and found.step == 10
    assert len(found.mistakes) == 5 and all(each.picture.startswith(b"\x89PNG") for each in found.mistakes)
    sure = [each.probability for each in found.mistakes]
    assert sure == sorted(sure, reverse=True) and all(each.of_right < each.probability for each in found.mistakes)


def test_without_its_data_the_page_says_so(folder, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    workdir = folder / "<i>one"
    config = json.loads((workdir / "config.json").read_text())
    change(workdir, data=config["data"] | {"eval": "folder:no/such/folder"})
    run(monkeypatch, report, workdir, f"--out={tmp_path / 'page.html'}")
    assert re.search("evaluation cannot be repeated here: .*no/such/folder", (tmp_path / "page.html").read_text())


def test_what_is_no_run_is_one_line(tmp_path, folder, capsys):
    for path, words in ((tmp_path / "none", "is no folder"), (tmp_path / "empty", "holds no run")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=words):
            read_records([folder, path])
    change(folder / "two", starts=["no object"])
    with pytest.raises(ConfigError, match="'starts'"):
        read_records([folder / "two"])
    assert [record.name for record in read_records([folder])] == ["<i>one"]
    assert "passed over" in capsys.readouterr().err


def test_keys_that_differ():
    from vision_jax.config import base_config

    one, two = base_config(), base_config()
    two.model.width, two.data.augment.crop_area = 8, None
    assert differing([one, one]) == {}
    assert differing([one, two]) == {"data.augment.crop_area": [(0.08, 1.0), None], "model.width": ["–", 8]}
