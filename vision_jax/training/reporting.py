"""What a run says: metrics.jsonl and TensorBoard, a live progress line, and summary.json with a table at the end."""

import io
import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from PIL import Image

from vision_jax.errors import ConfigError
from vision_jax.training.throughput import Spans
from vision_jax.weights.work_folder import metric_rows


class Reporter:
    """Writes and prints what a run has measured; one a process, but only where `is_writer` (process 0) does it do so.

    `metrics.jsonl` holds one object a line, {"step": 100, "train/loss": 6.9}. A value that is not finite is null: JSON
    has no other word for it. A run that resumes from step k keeps exactly the lines with step <= k, dropping what a
    killed run wrote later or only in part, so that the file becomes that of a run never interrupted. A run that starts
    at step 0 starts an empty file.

    Args:
        workdir: the run's folder, which must exist; None: write no files.
        total_steps, start_step: steps of the whole run, and those that a resumed run has behind it.
        batch_size: examples a step, over all processes.
        tensorboard: write event files to `workdir`/tensorboard, too.
        flops_per_step, peak_flops: of one step, and FLOP/s of all devices together; MFU is given where both are known.
        spans: accounts the run's wall time; throughput is over "data" and "step".
        stream: where progress goes; None: stderr.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        workdir: pathlib.Path | None,
        *,
        total_steps: int,
        start_step: int = 0,
        batch_size: int,
        tensorboard: bool = False,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        spans: Spans | None = None,
        is_writer: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.spans = spans or Spans(clock)
        self._total, self._start, self._step, self._batch = total_steps, start_step, start_step, batch_size
        self._flops, self._peak = flops_per_step, peak_flops
        self._latest: dict[str, float | None] = {}
        self._readings = deque([(start_step, self.spans.seconds())], maxlen=10)
        self._first = self._readings[0]
        self._line = ProgressLine(stream or sys.stderr, clock) if is_writer else None
        self._workdir = workdir if is_writer else None
        self._file = self._events = None
        self._rows: list[dict] = []  # what an earlier process of the run has written
        if self._workdir is not None:
            path = self._workdir / "metrics.jsonl"
            self._rows = truncate_jsonl(path, start_step)
            for row in self._rows:
                self._latest |= row
            self._file = path.open("a", encoding="utf-8")
            self._events = _event_writer(self._workdir / "tensorboard", start_step) if tensorboard else None

    def names_at(self, step: int) -> set[str]:
        """Names of the metrics that an earlier process of the run has written at a step."""
        return {name for row in self._rows if row["step"] == step for name in row}

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line; values are numbers, or arrays of one number, which are then waited for.

        Pictures uint8[H, W, 3] among them go to `workdir`/pictures, named by metric and step, and to TensorBoard.
        """
        for name in [name for name, value in metrics.items() if is_picture(value)]:
            self._picture(step, name, metrics[name])
        metrics = {name: value for name, value in metrics.items() if not is_picture(value)}
        self._step = max(self._step, step)
        row = {"step": step} | {name: _json_number(value) for name, value in metrics.items()}
        self._latest |= row
        if self._file is not None:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, float(value), step)

    def _picture(self, step: int, name: str, picture) -> None:
        if self._workdir is not None:
            write_picture(self._workdir / "pictures" / f"{name.rpartition('/')[2]}_{step:08d}.png", picture)
        if self._events is not None:
            self._events.add_image(name, picture, step, dataformats="HWC")

    def progress(self, step: int, loss: Any) -> None:
        """Shows step, loss, images/s, MFU, share of the time spent waiting for data and time left: rewritten in place on
        a terminal, elsewhere a line every half minute at most. Converts `loss`, and so waits for it, only then.

        Devices may be busy with the step before while the loop waits: the share bounds what faster input would win.
        """
        self._step = max(self._step, step)
        if self._line is None or not self._line.due(step == self._total):
            return
        now = (step, self.spans.seconds())
        rates = self._rates(self._readings[0], now)
        self._readings.append(now)
        parts = [f"step {step:,}/{self._total:,}", f"loss {float(loss):.4f}"]
        if rates:
            elapsed = sum(now[1].values()) - sum(self._first[1].values())
            left = elapsed / (step - self._start) * (self._total - step)
            parts.append(f"{_number(rates['images_per_second'])} images/s")
            parts += [f"MFU {rates['mfu']:.1%}"] if "mfu" in rates else []
            parts += [f"waiting for data {rates['data_share']:.0%}", f"{_duration(left)} left"]
        self._line.show("  ".join(parts))

    def note(self, text: str) -> None:
        """Prints a line of its own among the progress."""
        if self._line is not None:
            self._line.end()
            print(text, file=self._line.stream, flush=True)

    def summary(self) -> dict[str, Any]:
        """Writes summary.json, prints it as a table to stdout and returns it.

        It holds the last value of every metric ever written; "step"; "examples_skipped" (the metric "train/broken") and
        "examples_seen" (all others of the whole run); and of this process, which may be a resumed one,
        "images_per_second", "data_share" and "mfu" while training, "wall_seconds" and "seconds" by span.
        """
        now = (self._step, self.spans.seconds())
        skipped = int(self._latest.get("train/broken") or 0)
        final = self._latest | {
            "step": self._step,
            "examples_seen": self._step * self._batch - skipped,
            "examples_skipped": skipped,
            **self._rates(self._first, now),
            "wall_seconds": sum(now[1].values()),
            "seconds": now[1],
        }
        if self._workdir is not None:
            write_atomically(self._workdir / "summary.json", json.dumps(final, indent=2, allow_nan=False).encode())
        if self._line is not None:
            self._line.end()
            print(table(final))
        return final

    def close(self) -> None:
        for part in (self._line, self._file, self._events):
            if part is not None:
                part.close()
        self._file = self._events = None

    def _rates(self, before: tuple[int, dict], after: tuple[int, dict]) -> dict[str, float]:
        """Rates between two readings of (step, seconds by span); {} if nothing ran."""
        steps = after[0] - before[0]
        data, step = (after[1][name] - before[1][name] for name in ("data", "step"))
        if steps <= 0 or data + step <= 0:
            return {}
        rates = {"images_per_second": steps * self._batch / (data + step), "data_share": data / (data + step)}
        if self._flops and self._peak:
            rates["mfu"] = steps * self._flops / (data + step) / self._peak
        return rates


class ProgressLine:
    """One line that is rewritten in place on a terminal; plain lines, at most one every 30 s, anywhere else."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]):
        self.stream, self._clock = stream, clock
        self._live = stream.isatty()
        self._interval = 0.5 if self._live else 30.0
        self._last, self._width = -math.inf, 0

    def due(self, last: bool) -> bool:
        return last or self._clock() - self._last >= self._interval

    def show(self, text: str) -> None:
        self._last = self._clock()
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be rewritten
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Leaves a live line standing, so that other output starts below it."""
        if self._width:
            self.stream.write("\n")
            self.stream.flush()
            self._width = 0

    close = end


def truncate_jsonl(path: pathlib.Path, step: int) -> list[dict]:
    """Keeps the whole lines whose "step" is at most `step` (none at step 0), atomically, and returns them as objects."""
    rows = [row for row in metric_rows(path.parent) if row["step"] <= step] if step > 0 else []
    write_atomically(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
    return rows


def is_picture(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 3


def write_picture(path: pathlib.Path, picture) -> None:
    """Writes uint8[H, W, 3] as a PNG, folders included."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encoded.getvalue())


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """At every moment `path` holds either what it held before or all of `content`."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def table(result: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns; the spans of "seconds" come as seconds/..."""
    flat = {name: value for name, value in result.items() if not isinstance(value, Mapping)}
    flat |= {f"seconds/{name}": value for name, value in result.get("seconds", {}).items()}
    width = max(map(len, flat), default=0)
    return "\n".join(f"{name:<{width}}  {_number(value):>14}" for name, value in flat.items())


def _json_number(value: Any) -> float | None:
    value = value if isinstance(value, int) else float(value)
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _event_writer(folder: pathlib.Path, start_step: int) -> Any:
    """A TensorBoard writer whose readers forget what an interrupted run wrote after `start_step`."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError(
            "config key 'log.tensorboard' needs tensorboardX: install it, or set the key to False"
        ) from None
    return SummaryWriter(str(folder), flush_secs=5, purge_step=start_step + 1 if start_step else 0)
