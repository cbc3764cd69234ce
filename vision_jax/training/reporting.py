"""What a run says: a live progress line, numbers and pictures to its targets, and summary.json with a table at the end."""

import json
import math
import pathlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from vision_jax.files import whole_file
from vision_jax.training.step import COUNTERS
from vision_jax.training.targets import WorkFolder, finite_or_none
from vision_jax.training.throughput import Spans
from vision_jax.weights.work_folder import first_line


class Reporter:
    """Tells what a run has measured, on the terminal and to its targets; only where `is_writer` (process 0).

    Args:
        workdir: the run's folder, which must exist; None: write no files.
        targets: what gets numbers and pictures besides it, by the key of the config. One that raises is told once and
            left out; the run goes on.
        callbacks: each is called with the step and its numbers once they are written.
        total_steps, start_step: steps of the whole run, and those that a resumed run has behind it.
        batch_size: examples a step, over all processes.
        flops_per_step, peak_flops: of one step, and FLOP/s of all devices together; MFU is given where both are known.
        spans: accounts the run's wall time; throughput is over "data" and "step".
        brief: for a notebook: progress goes to stdout, and a line on what was measured last takes the table's place.
        stream: where progress goes; None: stderr.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        workdir: pathlib.Path | None,
        *,
        targets: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callable[[int, dict], Any]] = (),
        total_steps: int,
        start_step: int = 0,
        batch_size: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        spans: Spans | None = None,
        is_writer: bool = True,
        brief: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.spans = spans or Spans(clock)
        self._total, self._start, self._step, self._batch = total_steps, start_step, start_step, batch_size
        self._flops, self._peak = flops_per_step, peak_flops
        self._readings = deque([(start_step, self.spans.seconds())], maxlen=10)
        self._first = self._timed = self._readings[0]
        stream, self._brief = stream or (sys.stdout if brief else sys.stderr), brief
        self._line = ProgressLine(stream, clock) if is_writer else None
        self._folder = WorkFolder(workdir, start_step) if is_writer and workdir else None
        self._targets, self._callbacks = dict(targets or {}), callbacks if is_writer else ()
        self._rows = self._folder.rows if self._folder else []  # what an earlier process of the run has written
        self._latest: dict[str, float | None] = {}
        for row in self._rows:
            self._latest |= row
        self._before = self._latest.get("train/seconds") or 0.0

    def names_at(self, step: int) -> set[str]:
        """Names of the metrics that an earlier process of the run has written at a step."""
        return {name for row in self._rows if row["step"] == step for name in row}

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Values are pictures uint8[H, W, 3], numbers, or arrays of one number, which are then waited for.

        Raises OSError where the work folder cannot be written.
        """
        pictures = {name: value for name, value in metrics.items() if is_picture(value)}
        numbers = {name: _python_number(value) for name, value in metrics.items() if name not in pictures}
        self._step = max(self._step, step)
        self._latest |= {"step": step} | {name: finite_or_none(value) for name, value in numbers.items()}
        for name, picture in pictures.items():
            self._tell("picture", step, name, picture)
        self._tell("write", step, numbers)
        for callback in self._callbacks:
            callback(step, numbers)

    def _tell(self, method: str, *values: Any) -> None:
        if self._folder:
            getattr(self._folder, method)(*values)
        for key, target in list(self._targets.items()):
            try:
                if hasattr(target, method):
                    getattr(target, method)(*values)
            except Exception as error:
                del self._targets[key]
                self.note(f"{key}: {first_line(error)}; the run goes on without it")

    def timing(self, step: int) -> dict[str, float]:
        """What a clock says (`CLOCKED`) of the steps since it was last asked, and the seconds that the run has taken.

        Of a run that goes on, these count from its last line on.
        """
        now = (step, self.spans.seconds())
        rates, self._timed = self._rates(self._timed, now), now
        return rates | {"seconds": self._before + sum(now[1].values())}

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
        if self._folder:
            with whole_file(self._folder.workdir / "summary.json") as file:
                file.write(json.dumps(final, indent=2, allow_nan=False).encode())
        if self._line is not None:
            self._line.end()
            print(self._last_words() if self._brief else table(final))
        return final

    def _last_words(self) -> str:
        told = [name for name in self._latest if name == "train/loss" or not name.startswith(("train/", "step"))]
        numbers = ", ".join(f"{name} {_number(self._latest[name])}" for name in told if not name.endswith("/examples"))
        return f"step {self._step:,}: {numbers}"

    def close(self) -> None:
        self._tell("close")
        self._targets.clear()
        if self._line:
            self._line.end()

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


class Means:
    """Means of what steps measure, over those since they were last taken; `COUNTERS` are not among it.

    A step whose update was skipped counts for nothing; where no step is left, the means are nan. `kept` is all that is
    summed, as JSON holds it, so that a run that goes on from a checkpoint takes the same means.
    """

    def __init__(self, steps: int = 0, sums: Mapping[str, float] | None = None):
        self._steps, self._sums = steps, dict(sums or {})

    def add(self, values: Mapping[str, float]) -> None:
        usable = not values["skipped_in_row"]
        self._steps += usable
        for name, value in values.items():
            if name not in COUNTERS:
                self._sums[name] = self._sums.get(name, 0.0) + (value if usable else 0.0)

    def take(self) -> dict[str, float]:
        means = {name: total / self._steps if self._steps else math.nan for name, total in self._sums.items()}
        self._steps, self._sums = 0, {}
        return means

    @property
    def kept(self) -> dict[str, Any]:
        return {"steps": self._steps, "sums": dict(self._sums)}


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


def is_picture(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 3


def table(result: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns; the spans of "seconds" come as seconds/..."""
    flat = {name: value for name, value in result.items() if not isinstance(value, Mapping)}
    flat |= {f"seconds/{name}": value for name, value in result.get("seconds", {}).items()}
    width = max(map(len, flat), default=0)
    return "\n".join(f"{name:<{width}}  {_number(value):>14}" for name, value in flat.items())


def _python_number(value: Any) -> float:
    return value if isinstance(value, int) else float(value)


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
