"""A report on a run as one page."""

import io
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision_jax.config import base_config, to_json
from vision_jax.errors import ConfigError
from vision_jax.reports import curves, tables
from vision_jax.reports.html import Markup, element, page, picture, section, table, wide
from vision_jax.reports.mistakes import Answers, classify
from vision_jax.reports.records import Record, differing
from vision_jax.reports.tables import duration, number, setting

CLASSES = 30  # the largest number for which the whole confusion matrix is shown
PAIRS = 20  # the number of most confused pairs that are shown for more classes
MISTAKES = 24
NO_CURVES = ("train/seconds", "train/epoch", "train/skipped", "train/skipped_in_row", "train/broken")


def report(record: Record, against: Record | None = None, checkpoint: str = "") -> str:
    """A report in HTML on a run, beside another one if given.

    checkpoint: whose mistakes are shown: "last", "best" or a step; by default the best if one is known, else the last.
    """
    shown = [record] if against is None else [record, against]
    return page(
        f"{record.name} – vision-jax",
        heading(record, against),
        results(shown),
        section("Curves", charts(shown)),
        answers(record, checkpoint),
        pictures(shown),
        settings(shown),
        speed(shown),
        origin(record),
    )


def heading(record: Record, against: Record | None) -> Markup:
    config, best = record.config, record.best
    what = f"{config.task} with {config.model.name} on {config.data.train}"
    lines = [element("h1", record.name), element("p", what, class_="quiet")]
    if against is not None:
        lines.append(element("p", f"beside {against.name}: {against.workdir}", class_="quiet"))
    tiles = {f"best {best['metric']}, at step {best['step']:,}": number(best["value"])} if best else {}
    tiles |= {
        "state": record.state,
        "time": duration(record.seconds),
        "last train/loss": number(record.last("train/loss")),
    }
    tiles |= {"images per second": number(_rate(record)), "config": record.config_name or tables.NONE}
    boxes = [element("div", element("b", value), element("span", name), class_="tile") for name, value in tiles.items()]
    return element("header", *lines, element("div", *boxes, class_="tiles"))


def results(records: Sequence[Record]) -> Markup:
    """The last value of every metric and, for two runs, the difference."""
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    if not names:
        return section("Results", element("p", "Nothing has been measured yet."))
    rows = []
    for name in names:
        values = [record.last(name) for record in records]
        row = [name, *map(number, values)]
        if len(values) == 2:
            row.append(tables.NONE if None in values else f"{values[0] - values[1]:+.4g}")
        rows.append(row)
    head = ["metric", *(record.name for record in records), *["difference"] * (len(records) - 1)]
    best = [element("p", f"Best of {record.name}: {tables.best_text(record)}.") for record in records if record.best]
    return section("Results", element("p", "The last value of each metric.", class_="quiet"), table(head, rows), *best)


def charts(records: Sequence[Record]) -> Markup:
    """One picture per metric."""
    names = dict.fromkeys(name for record in records for name in (*record.metrics, *record.history))
    names = [name for name in names if name not in NO_CURVES and not name.endswith("/examples")]
    found = []
    for name in names:
        figure, file = curves.make_figure("report"), io.BytesIO()
        curves.draw(figure, records, [name])
        figure.savefig(file, format="svg", metadata={"Date": None})
        found.append(picture(file.getvalue(), "svg+xml", f"{name} over steps"))
    return element("div", *found, class_="curves") if found else element("p", "Nothing has been reported yet.")


def answers(record: Record, checkpoint: str) -> Markup:
    """What a classifier confuses; nothing for another task."""
    try:
        found = classify(record.workdir, checkpoint or ("best" if record.best else "last"), MISTAKES)
    except (ConfigError, OSError) as error:
        return section("Mistakes", element("p", f"Not shown, since evaluation cannot be repeated here: {error}"))
    if found is None:
        return Markup()
    total = int(found.confusion.sum())
    wrong = total - int(np.trace(found.confusion))
    said = f"{wrong:,} of {total:,} examples of {found.source} are taken for another class at step {found.step:,}"
    return section(
        "Mistakes",
        element("p", f"{said}: {found.accuracy:.2%} are right."),
        confusion_matrix(found) if len(found.class_names) <= CLASSES else confused_pairs(found),
        confident_mistakes(found),
    )


def confusion_matrix(found: Answers) -> Markup:
    """Number of examples by true class and predicted class."""
    shares = found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)

    def cell(row: int, column: int) -> Markup:
        share, count = shares[row, column], found.confusion[row, column]
        color = "0,114,178" if row == column else "213,94,0"
        strength = share if row == column else min(1, 4 * share)  # so that a few per cent are visible
        style = f"background:rgba({color},{strength:.2f});color:{'#fff' if strength > 0.75 else 'inherit'}"
        return element("td", f"{count:,}", style=style) if count else element("td")

    names = found.class_names
    head = element("tr", element("th"), *(element("th", name, scope="col") for name in names))
    rows = [
        element("tr", element("th", name, scope="row"), *(cell(row, column) for column in range(len(names))))
        for row, name in enumerate(names)
    ]
    long = {"class_": "long"} if max(map(len, names)) > 4 else {}
    said = (
        "Rows: the class it is. Columns: the class it is taken for. Numbers of examples; the colour is the share of the row,"
        " blue of what is right, orange of what is wrong, which is as dark as can be from a quarter on."
    )
    return element(
        "div",
        element("h3", "Confusion matrix"),
        wide(element("table", element("thead", head, **long), element("tbody", *rows), class_="confusion")),
        element("p", said, class_="quiet"),
    )


def confused_pairs(found: Answers) -> Markup:
    wrong = found.confusion * (1 - np.eye(len(found.confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(index), len(wrong)) for index in order]
    names, counts = found.class_names, found.confusion.sum(1)
    rows = [[f"{names[i]} → {names[j]}", f"{wrong[i, j]:,}", f"{counts[i]:,}"] for i, j in pairs if wrong[i, j]]
    if not rows:
        return Markup()
    title = element("h3", "Classes that are confused most often")
    return element("div", title, table(["class → taken for", "times", "of"], rows))


def confident_mistakes(found: Answers) -> Markup:
    if not found.mistakes:
        return Markup()
    shown = [
        picture(
            each.picture,
            "png",
            f"{each.is_}, taken for {each.taken_for}",
            element("b", f"{each.is_}, taken for {each.taken_for}"),
            element("div", f"{each.taken_for}: {each.probability:.1%}, {each.is_}: {each.of_right:.1%}"),
        )
        for each in found.mistakes
    ]
    said = "With the probabilities that the model gives to the class that it takes it for, and to the class it is."
    return element(
        "div",
        element("h3", "The most confident mistakes"),
        element("div", *shown, class_="mistakes"),
        element("p", said, class_="quiet"),
    )


def pictures(records: Sequence[Record]) -> Markup:
    """The first and the last of the pictures that runs have written."""
    shown = []
    for record in records:
        for name, files in _pictures_of(record.workdir).items():
            for step in sorted({min(files), max(files)}):
                said = f"{record.name}: {name}, step {step:,}"
                shown.append(picture(files[step].read_bytes(), "png", said, said))
    return section("Pictures", element("div", *shown, class_="pictures")) if shown else Markup()


def _pictures_of(workdir: pathlib.Path) -> dict[str, dict[int, pathlib.Path]]:
    """Name -> step -> file."""
    found: dict[str, dict[int, pathlib.Path]] = {}
    for path in sorted((workdir / "pictures").rglob("*_*.png")):
        name, _, step = path.stem.rpartition("_")
        if step.isdecimal():
            whole = (path.parent / name).relative_to(workdir / "pictures")
            found.setdefault(str(whole), {})[int(step)] = path
    return found


def settings(records: Sequence[Record]) -> Markup:
    record, parts = records[0], []
    if len(records) == 2:
        parts += [element("h3", f"What differs from {records[1].name}")]
        differ = differing([each.config for each in records])
        head = ["key", *(each.name for each in records)]
        parts.append(_settings(head, differ) if differ else element("p", "Nothing."))
    parts.append(element("h3", "What is not at its default"))
    parts.append(_settings(["key", "value", "default"], differing([record.config, base_config()])))
    whole = element("pre", to_json(record.config))
    parts.append(element("details", element("summary", "The whole config"), whole))
    return section("Config", *parts)


def _settings(head: Sequence[str], values: Mapping[str, Sequence]) -> Markup:
    rows = [[element("code", key), *map(setting, row)] for key, row in values.items()]
    return table(head, rows, numbers=False)


def speed(records: Sequence[Record]) -> Markup:
    """Throughput, where the time went, and what was skipped."""
    facts: dict[str, list[str]] = {}
    for record in records:
        summary = record.summary
        seen, skipped = summary.get("examples_seen"), summary.get("examples_skipped", record.last("train/broken"))
        told = {
            "images per second": number(_rate(record)),
            "share of the time spent waiting for data": _share(
                summary.get("data_share", record.last("train/data_share"))
            ),
            "model FLOPs utilisation": _share(summary.get("mfu", record.last("train/mfu"))),
            "examples seen": number(seen if seen is not None else record.step * record.config.batch_size),
            "examples skipped, since they cannot be read": number(skipped),
            "updates skipped, since they were not finite": number(record.last("train/skipped")),
            "time, over all processes": duration(record.seconds),
        }
        for name, value in told.items():
            facts.setdefault(name, []).append(value)
    head = ["", *(record.name for record in records)] if len(records) > 1 else []
    parts = [table(head, [[name, *values] for name, values in facts.items()])]
    seconds = records[0].summary.get("seconds")
    if isinstance(seconds, dict) and (total := sum(seconds.values())) > 0:
        rows = [
            [name, duration(value), element("div", class_="bar", style=f"width:{100 * value / total:.1f}%")]
            for name, value in seconds.items()
        ]
        parts += [element("h3", "Where the time of its last process went"), table([], rows, class_="bars")]
    return section("Speed", *parts)


def _rate(record: Record) -> float | None:
    return record.summary.get("images_per_second", record.last("train/images_per_second"))


def _share(value: float | None) -> str:
    return tables.NONE if value is None else f"{value:.1%}"


def origin(record: Record) -> Markup:
    """Who started the run and how, and which changes were accepted."""
    parts = []
    for start in record.starts:
        processes = start.get("processes", 1)
        said = {
            "command line": element("code", str(start.get("command", ""))),
            "devices": f"{start.get('devices', '')}" + (f", {processes} processes" if processes != 1 else ""),
            "versions": _pairs(start.get("versions")),
            "git commits": _pairs(start.get("commits")),
        }
        parts.append(element("h3", f"{start.get('date', '')}, from step {start.get('step', 0)}"))
        parts.append(table([], [[name, value] for name, value in said.items() if value], False, class_="texts"))
    if not parts:
        parts.append(element("p", "The run was begun by a version that did not record it."))
    if record.accepted:
        rows = [[str(each.get(key, "")) for key in ("key", "was", "is", "step")] for each in record.accepted]
        parts += [element("h3", "Changes that were accepted"), table(["key", "was", "is", "from step"], rows, False)]
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    parts.append(element("p", f"Work folder {record.workdir}. Written {written} by vision-jax report.", class_="quiet"))
    return section("Origin", *parts)


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else ""
