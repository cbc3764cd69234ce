"""Runs side by side as text, and the formatting of numbers and config values."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vision_jax.config import base_config
from vision_jax.files import printable
from vision_jax.reports.records import NONE, Record, differing
from vision_jax.training import terminal


def number(value: float | None) -> str:
    """A measurement with a few digits."""
    return NONE if value is None else terminal.number(value if math.isfinite(value) else None)


def duration(seconds: float | None) -> str:
    return NONE if seconds is None else terminal.duration(seconds)


def setting(value: Any, most: int = 200) -> str:
    """A value of the config, cut to `most` characters."""
    return printable(value, most) if isinstance(value, str) and value.strip() else printable(repr(value), most)


def best_text(record: Record) -> str:
    best = record.best
    return f"{best['metric']} {number(best['value'])} at step {best['step']:,}" if best else NONE


def table_of_runs(records: Sequence[Record], width: int) -> str:
    """The runs, their last metrics, and how their configs differ; for a single run, how it differs from the defaults."""
    head = ["run", "config", "state", "time", "best"]
    rows = [
        [each.name, each.config_name or each.config.model.name, each.state, duration(each.seconds), best_text(each)]
        for each in records
    ]
    parts = [aligned(head, rows, width)]
    names = [each.name for each in records]
    metrics = {name: [number(each.last(name)) for each in records] for each in records for name in each.metrics}
    if metrics:
        parts.append("last measured\n\n" + _by_run(names, metrics, width))
    configs = [each.config for each in records]
    if len(records) == 1:
        configs, names = [*configs, base_config()], [*names, "default"]
    changed = differing(configs)
    if changed:
        title = f"keys of the config that {'differ' if len(records) > 1 else 'are not at their defaults'}"
        settings = {key: [setting(value, 32) for value in row] for key, row in changed.items()}
        parts.append(f"{title}\n\n{_by_run(names, settings, width)}")
    elif len(records) > 1:
        parts.append("their configs are the same")
    return "\n\n".join(parts)


def _by_run(names: Sequence[str], values: Mapping[str, Sequence[str]], width: int) -> str:
    """The values of each run: one row per run, or if there are more values than runs, one column."""
    if len(values) > len(names):
        return aligned(["", *names], [[key, *row] for key, row in values.items()], width)
    columns = zip(*values.values(), strict=True)
    return aligned(["run", *values], [[name, *row] for name, row in zip(names, columns, strict=True)], width)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns of text, numbers aligned to the right. Those beyond `width` follow below, after the first column again."""
    columns = [[title, *column] for title, column in zip(head, zip(*rows, strict=True), strict=True)]
    columns = [_padded(column) for column in columns]
    blocks, used = [[columns[0]]], len(columns[0][0])
    for column in columns[1:]:
        if len(blocks[-1]) > 1 and used + 2 + len(column[0]) > width:
            blocks.append([columns[0]])
            used = len(columns[0][0])
        blocks[-1].append(column)
        used += 2 + len(column[0])
    lines = [["  ".join(cells).rstrip() for cells in zip(*block, strict=True)] for block in blocks]
    return "\n\n".join("\n".join(block) for block in lines)


def _padded(column: Sequence[str]) -> list[str]:
    cells = column[1:]
    is_number = all(re.fullmatch(rf"-?[\d.,]+(e[-+]\d+)?|{NONE}|not finite", cell) for cell in cells)
    size = max(map(len, column))
    return [cell.rjust(size) if is_number else cell.ljust(size) for cell in column]
