"""What the files of a work folder say about its run, finished or not."""

import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vision_jax.config import Section, leaves
from vision_jax.errors import ConfigError
from vision_jax.files import printable, read_object
from vision_jax.training.lock import owner
from vision_jax.training.reporting import is_told
from vision_jax.weights.work_folder import (
    checkpoint_steps,
    local_folder,
    metric_rows,
    read_run_config,
    read_run_record,
)

NONE = "–"  # shown if there is no value


class Series(NamedTuple):
    """The reported values of a metric: step int[n], value float[n], NaN where not finite."""

    step: np.ndarray
    value: np.ndarray


def read_history(workdir: pathlib.Path) -> dict[str, Series]:
    """The contents of metrics.jsonl, by metric."""
    found: dict[str, list] = {}
    for row in metric_rows(workdir):
        for name, value in row.items():
            if name != "step" and (value is None or isinstance(value, int | float)):
                found.setdefault(name, []).append((row["step"], np.nan if value is None else value))
    return {name: Series(*map(np.array, zip(*points, strict=True))) for name, points in found.items()}


def read_summary(workdir: pathlib.Path) -> dict[str, Any]:
    """summary.json of a run that has ended, else {}."""
    path = workdir / "summary.json"
    return read_object(path, str(path)) if path.is_file() else {}


@dataclasses.dataclass(frozen=True)
class Record:
    """A run as its files show it at one time. `name` distinguishes it from the runs shown beside it."""

    workdir: pathlib.Path
    name: str
    config: Section
    derived: dict[str, Any]
    accepted: list[dict]
    starts: list[dict]
    history: dict[str, Series]
    summary: dict[str, Any]
    saved: int  # the step of the newest checkpoint, 0 if there is none
    owner: dict[str, Any]  # who is training it now

    @property
    def steps(self) -> int | None:
        """The number of steps of the whole run."""
        steps = self.derived.get("steps", {})
        return steps.get("duration") if isinstance(steps, dict) else None

    @property
    def step(self) -> int:
        """The last reported step."""
        return max((int(series.step[-1]) for series in self.history.values()), default=0)

    @property
    def state(self) -> str:
        of = f" of {self.steps:,}" if self.steps else ""
        if self.owner:
            return f"running, step {self.step:,}{of}"
        if self.summary and self.summary.get("step") == self.steps:
            return "finished"
        return f"stopped at step {self.saved:,}{of}"

    @functools.cached_property
    def best(self) -> dict[str, Any]:
        """{"metric", "value", "step"} for config.checkpoint.best, the earliest of equals; {} if it is not measured."""
        metric, mode = self.config.checkpoint.best, self.config.checkpoint.best_mode
        series = self.history.get(metric)
        if series is None or np.isnan(series.value).all():
            return {}
        index = int((np.nanargmax if mode == "max" else np.nanargmin)(series.value))
        return {"metric": metric, "value": float(series.value[index]), "step": int(series.step[index])}

    @property
    def seconds(self) -> float | None:
        """The seconds that the run has taken, over all its processes, as far as known."""
        told = self.history.get("train/seconds")
        known = [*([] if told is None else [float(told.value[-1])]), self.summary.get("wall_seconds")]
        return max((each for each in known if isinstance(each, int | float)), default=None)

    @property
    def config_name(self) -> str:
        """The name or file of its config, "" if not known."""
        return next((str(start["config"]) for start in reversed(self.starts) if start.get("config")), "")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of quality, the deciding one first: losses and evaluation metrics."""
        names = filter(is_told, self.history)
        return sorted(names, key=lambda name: (name != self.config.checkpoint.best, name == "train/loss"))

    def last(self, metric: str) -> float | None:
        """The last value of a metric, None if there is none."""
        series = self.history.get(metric)
        return None if series is None else float(series.value[-1])


def read_record(workdir: pathlib.Path, name: str = "") -> Record:
    """The run in a work folder. Raises ConfigError if there is none."""
    record = read_run_record(workdir)
    saved = max(checkpoint_steps(workdir / "checkpoints"), default=0)
    return Record(
        workdir,
        name or workdir.name,
        read_run_config(workdir),
        record["derived"],
        record["accepted"],
        record["starts"],
        read_history(workdir),
        read_summary(workdir),
        saved,
        owner(workdir),
    )


def read_records(folders: Sequence[str]) -> list[Record]:
    """The runs in work folders; any other folder stands for the runs below it, at any depth.

    Raises ConfigError for a given work folder that cannot be read, and for the first one below another folder if none
    there can be; otherwise unreadable ones are named on stderr.
    """
    found: dict[pathlib.Path, Record] = {}
    for folder in map(local_folder, folders):
        if (folder / "config.json").is_file():
            found[folder] = read_record(folder)
            continue
        errors = []
        for workdir in _runs_below(folder):
            try:
                found[workdir] = read_record(workdir)
            except ConfigError as error:
                errors.append(error)
        if not any(workdir.is_relative_to(folder) for workdir in found):
            problem = "holds no run" if folder.is_dir() else "is no folder"
            raise (errors or [ConfigError(f"{printable(folder)} {problem}: a work folder has a config.json")])[0]
        for error in errors:
            print(f"passed over {error}", file=sys.stderr)
    names = distinct_names(list(found))
    return [dataclasses.replace(record, name=name) for record, name in zip(found.values(), names, strict=True)]


def _runs_below(folder: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for path, folders, files in os.walk(folder):
        if "config.json" in files:
            found.append(pathlib.Path(path))
        folders[:] = [] if "config.json" in files else sorted(folders)  # do not search a run's many checkpoint folders
    return found


def distinct_names(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """The ends of paths, as short as possible while different from each other."""
    for parts in range(1, max((len(path.parts) for path in workdirs), default=0) + 1):
        names = [str(pathlib.Path(*path.parts[-parts:])) for path in workdirs]
        if len(set(names)) == len(names):
            return names
    return list(map(str, workdirs))


def differing(configs: Sequence[Section]) -> dict[str, list[Any]]:
    """Key -> its value in each config (`NONE` if missing), for the keys in which the configs differ."""
    values = [dict(leaves(config)) for config in configs]
    keys = sorted({key for each in values for key in each})
    found = {key: [each.get(key, NONE) for each in values] for key in keys}
    return {key: row for key, row in found.items() if len({json.dumps(value) for value in row}) > 1}
