"""What a run has measured: progress on the terminal, numbers and pictures to its targets, and summary.json."""

import json
import math
import pathlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision_jax.files import whole_file
from vision_jax.training.step import COUNTERS
from vision_jax.training.targets import WorkFolder, finite_or_none
from vision_jax.training.terminal import Terminal, duration, number
from vision_jax.training.throughput import Spans
from vision_jax.weights.work_folder import first_line

RECENT = 100  # steps over which displayed values are averaged
WARM_UP = 5  # steps not used to estimate the time left
WAITING = 0.2  # share of the time spent waiting for data from which it is displayed


class Reporter:
    """Reports what a run has measured, on the terminal and to its targets; only if `is_writer` (process 0).

    Args:
        workdir: the run's folder, which must exist; None: write no files.
        targets: what else gets numbers and pictures, by the key of the config. One that raises is reported once and
            dropped; the run goes on.
        callbacks: each is called with the step and its numbers once they are written.
        terminal: where people see the reports.
        total_steps, start_step: steps of the whole run, and those already done when a resumed run starts.
        batch_size, epoch_size: examples per step, over all processes, and per epoch.
        best: the metric that decides which checkpoint is best; the progress shows its last value.
        flops_per_step, peak_flops: of one step, and FLOP/s of all devices together; MFU is given if both are known.
        spans: accounts for the run's wall time; throughput is over "data" and "step".
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        workdir: pathlib.Path | None,
        *,
        targets: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callable[[int, dict], Any]] = (),
        terminal: Terminal,
        total_steps: int,
        start_step: int = 0,
        batch_size: int,
        epoch_size: int,
        best: str = "",
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        spans: Spans | None = None,
        is_writer: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.spans, self.terminal, self._best, self._epoch = spans or Spans(clock), terminal, best, epoch_size
        self._total, self._start, self._step, self._batch = total_steps, start_step, start_step, batch_size
        self._flops, self._peak = flops_per_step, peak_flops
        self._first = self._timed = (start_step, self.spans.seconds())
        self._readings: deque = deque(maxlen=20)  # of the clock, since the first step of this process
        self._begun = self._first  # the reading from which the time left is estimated
        self._recent: deque = deque(maxlen=RECENT)  # measurements of the last steps
        self._folder = WorkFolder(workdir, start_step) if is_writer and workdir else None
        self._targets, self._callbacks = dict(targets or {}), callbacks if is_writer else ()
        self._rows = self._folder.rows if self._folder else []  # written by an earlier process of the run
        self._latest: dict[str, float | None] = {}
        for row in self._rows:
            self._latest |= row
        self._before = self._latest.get("train/seconds") or 0.0

    def names_at(self, step: int) -> set[str]:
        """Names of the metrics that an earlier process of the run wrote at a step."""
        return {name for row in self._rows if row["step"] == step for name in row}

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Values are pictures uint8[H, W, 3], numbers, or arrays of one number, which this waits for.

        Raises OSError if the work folder cannot be written.
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
                self.terminal.say(f"{key}: {first_line(error)}; the run goes on without it")

    def timing(self, step: int) -> dict[str, float]:
        """The clock's metrics (`CLOCKED`) for the steps since the last call, and the seconds that the run has taken.

        In a resumed run, the seconds include those on the last line written before.
        """
        now = (step, self.spans.seconds())
        rates, self._timed = self._rates(self._timed, now), now
        return rates | {"seconds": self._before + sum(now[1].values())}

    def progress(self, step: int, values: Mapping[str, float], learning_rate: Callable[[], float]) -> None:
        """Takes what a step has measured, and shows how far the run is if a line is due.

        Loss and metrics are means of the last `RECENT` steps. The time left is estimated from the first steps of this
        process on, without compilation and the start of data workers. Devices may be busy with the previous step while
        the loop waits for data: that share is an upper bound on the gain from faster input.
        """
        self._step = max(self._step, step)
        self._recent.append(values)
        if step - self._start in (1, WARM_UP):  # the first steps wait for data workers and late compilations
            self._begun = step, self.spans.seconds()
            self._readings.append(self._begun)
        stays = step in (self._start + 1, self._total) or str(step).rstrip("0") in ("1", "2", "5")
        if not self.terminal.is_due(stays):
            return
        now = (step, self.spans.seconds())
        rates = self._rates(self._readings[0], now)
        self._readings.append(now)
        epochs, total = (steps * self._batch / self._epoch for steps in (step, self._total))
        parts = [f"step {step:,}/{self._total:,}", f"epoch {epochs:.1f}/{total:.3g}"]
        parts += [f"{name} {number(value)}" for name, value in self._means().items()]
        if (value := self._latest.get(self._best)) is not None:
            parts.append(f"{self._best} {number(value)}")
        if step > self._begun[0] and step - self._start > WARM_UP and step < self._total:
            left = _seconds_since(self._begun, now) / (step - self._begun[0]) * (self._total - step)
            parts.append(f"{duration(left)} left")
        parts += [f"{number(rates['images_per_second'])} images/s"] if rates else []
        parts.append(f"lr {number(learning_rate())}")
        parts += [f"MFU {rates['mfu']:.1%}"] if "mfu" in rates else []
        parts += [f"waiting for data {rates['data_share']:.0%}"] if rates.get("data_share", 0) > WAITING else []
        self.terminal.progress(parts, stays)

    def _means(self) -> dict[str, float]:
        """Means of the loss and the other training metrics over the last steps whose update counted."""
        means = Means()
        for values in self._recent:
            means.add(values)
        return {name: value for name, value in means.take().items() if name != "grad_norm"}

    def evaluated(self, step: int, measured: Mapping[str, Any], is_best: bool) -> None:
        """Prints the results of evaluations."""
        shown = [
            f"{name} {number(_python_number(value))}"
            for name, value in measured.items()
            if is_told(name) and not is_picture(value)
        ]
        what = f"evaluation at step {step:,}: {', '.join(shown) or 'done'}"
        self.terminal.say(f"{what}  (best so far, saved)" if is_best else what, "good" if is_best else "strong")

    def summary(self, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes summary.json and returns it.

        It holds the last value of every metric ever written; "step"; whatever is passed as `about`, such as the best value
        and who started the run; "examples_skipped" (the metric "train/broken") and "examples_seen" (all others of the whole
        run); and for this process, which may be a resumed one, "images_per_second", "data_share" and "mfu" while training,
        "wall_seconds" and "seconds" by span.
        """
        now = (self._step, self.spans.seconds())
        skipped = int(self._latest.get("train/broken") or 0)
        final = self._latest | {
            "step": self._step,
            **(about or {}),
            "examples_seen": self._step * self._batch - skipped,
            "examples_skipped": skipped,
            **self._rates(self._first, now),
            "wall_seconds": sum(now[1].values()),
            "seconds": now[1],
        }
        if self._folder:
            with whole_file(self._folder.workdir / "summary.json") as file:
                file.write(json.dumps(final, indent=2, allow_nan=False).encode())
        return final

    def close(self) -> None:
        self._tell("close")
        self._targets.clear()
        self.terminal.close()

    def _rates(self, before: tuple[int, dict], after: tuple[int, dict]) -> dict[str, float]:
        """Rates between two readings of (step, seconds by span); {} if no step ran."""
        steps = after[0] - before[0]
        data, step = (after[1][name] - before[1][name] for name in ("data", "step"))
        if steps <= 0 or data + step <= 0:
            return {}
        rates = {"images_per_second": steps * self._batch / (data + step), "data_share": data / (data + step)}
        if self._flops and self._peak:
            rates["mfu"] = steps * self._flops / (data + step) / self._peak
        return rates


class Means:
    """Means of what steps measure, over the steps since the last `take`; `COUNTERS` are not included.

    A step whose update was skipped does not count; if no step is left, the means are nan. `kept` holds the sums as JSON,
    so that a run that resumes from a checkpoint gives the same means.
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


def is_picture(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 3


def is_told(name: str) -> bool:
    """Whether a metric says how good the model is: the training loss, and what evaluations measure."""
    return name == "train/loss" or (not name.startswith("train/") and not name.endswith("/examples"))


def _seconds_since(before: tuple[int, dict], after: tuple[int, dict]) -> float:
    return sum(after[1].values()) - sum(before[1].values())


def _python_number(value: Any) -> float:
    return value if isinstance(value, int) else float(value)
