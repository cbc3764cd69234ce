"""Where a run's numbers and pictures go: its work folder, TensorBoard, Weights & Biases, or a class of your own.

A target is created as `Target(run, **fields)`, where `fields` is its section of the config, and has some of these methods:

    write(step: int, numbers: dict[str, float])                 # the only required one
    picture(step: int, name: str, picture: np.ndarray)          # uint8[H, W, 3]
    close()
"""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import Image

from vision_jax import parts
from vision_jax.errors import ConfigError
from vision_jax.files import whole_file
from vision_jax.weights.work_folder import metric_rows

TARGETS = {
    "tensorboard": "vision_jax.training.tensorboard:TensorBoard",
    "wandb": "vision_jax.training.weights_and_biases:WeightsAndBiases",
}


class RunInfo(NamedTuple):
    """What a target knows about its run."""

    workdir: pathlib.Path
    config: dict[str, Any]  # plain, resolved
    start_step: int  # steps that the run had already done when this process started


class WorkFolder:
    """metrics.jsonl, and pictures/ by metric and step.

    The former holds one object per line, {"step": 100, "train/loss": 6.9}; a value that is not finite becomes null, since
    JSON has no other word for it. A run that resumes from step k keeps exactly the lines with step <= k, `rows`, dropping
    what a killed run wrote later or only in part, so that the file ends up like that of an uninterrupted run. A run that
    starts at step 0 starts an empty file.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        self.workdir, path = workdir, workdir / "metrics.jsonl"
        self.rows = truncate_jsonl(path, start_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        row = {"step": step} | {name: finite_or_none(value) for name, value in numbers.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def picture(self, step: int, name: str, picture) -> None:
        write_picture(self.workdir / "pictures" / f"{name}_{step:08d}.png", picture)

    def close(self) -> None:
        self._file.close()


def open_targets(log, run: RunInfo) -> dict[str, Any]:
    """Key of the config -> target, for those that its section `log` asks for besides the work folder.

    Raises ConfigError if one cannot be created.
    """
    return {key: parts.build(key, kind, TARGETS, fields, run) for key, kind, fields in _chosen(log)}


def check_targets(log) -> None:
    """Raises ConfigError for a target that does not exist, cannot be imported or has other fields."""
    for key, kind, fields in _chosen(log):
        target = parts.find(key, kind, TARGETS)
        parts.checked_fields(f"{key}={kind!r}", target, fields)
        if not callable(getattr(target, "write", None)):
            raise ConfigError(f"{key}={kind!r} is no report target: it has no method write(step, numbers)")


def _chosen(log) -> Iterator[tuple[str, str, dict]]:
    """(key, kind, fields) of every target that the config asks for."""
    if log.tensorboard:
        yield "config.log.tensorboard", "tensorboard", {}
    for name, section in log.targets.items():
        yield f"config.log.targets.{name}.kind", section.part, section.own_fields


def finite_or_none(value: float) -> float | None:
    """The number if it is finite, else None, since JSON has no other numbers."""
    return value if math.isfinite(value) else None


def truncate_jsonl(path: pathlib.Path, step: int) -> list[dict]:
    """Keeps the complete lines whose "step" is at most `step` (none at step 0), atomically, and returns them as objects."""
    rows = [row for row in metric_rows(path.parent) if row["step"] <= step] if step > 0 else []
    with whole_file(path) as file:
        file.writelines(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
    return rows


def write_picture(path: pathlib.Path, picture) -> None:
    """Writes uint8[H, W, 3] as a PNG, creating folders if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
