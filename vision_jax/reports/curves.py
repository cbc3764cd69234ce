"""Curves of runs: one plot for `run.plot`, `vision-jax plot` and `vision-jax report`."""

import re
import textwrap
from collections.abc import Sequence

from vision_jax.errors import ConfigError, did_you_mean, not_installed
from vision_jax.reports.records import Record

# Okabe and Ito's, which colour-blind people can tell apart (jfly.uni-koeln.de/color); those visible on white come first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")  # used once all colours are taken
PANEL = 4.2, 3.0  # inches
UNITS = {
    "psnr": "dB",
    "images_per_second": "images/s",
    "seconds": "s",
    "epoch": "epochs",
    "data_share": "share of the time",
    "mfu": "share of the peak",
    "broken": "examples",
    "skipped": "updates",
}


def make_figure(what: str):
    """An empty matplotlib figure without a window. Raises ConfigError, naming `what`, if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise not_installed(what, "matplotlib") from None
    return Figure(layout="constrained")


def draw(figure, records: Sequence[Record], metrics: Sequence[str] = (), over: str = "step") -> None:
    """Draws metrics of runs on an empty matplotlib figure, one panel each; by default losses and evaluation metrics.

    over: "step" or "epoch" (examples seen, divided by the examples in an epoch), for runs whose batch sizes differ.
    Raises ConfigError for a metric that no run has.
    """
    from matplotlib.lines import Line2D

    names = list(metrics) or list(dict.fromkeys(name for record in records for name in record.metrics))
    known = dict.fromkeys(name for record in records for name in record.history)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{unknown[0]!r} is not reported{did_you_mean(unknown[0], known)}")
    if not names:
        raise ConfigError(f"{', '.join(str(record.workdir) for record in records)}: no metrics yet")
    columns = 2 if len(names) in (2, 4) else min(len(names), 3)
    rows = -(-len(names) // columns)
    figure.set_size_inches(PANEL[0] * columns, PANEL[1] * rows + 0.3 * (len(records) > 1))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        shown = [(number, record) for number, record in enumerate(records) if name in record.history]
        marker = "o" if max(len(record.history[name].step) for _, record in shown) < 20 else None
        for number, record in shown:
            step, value = record.history[name]
            axis.plot(step * _per_step(record, over), value, marker=marker, markersize=4, **_style(number))
        axis.set(title=name, xlabel="step" if over == "step" else "epochs", ylabel=_unit(name))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    if len(records) > 1:
        lines = [Line2D([], [], **_style(number)) for number in range(len(records))]
        labels = ["\n".join(textwrap.wrap(record.name, 40)) for record in records]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(len(records), 2 * columns), frameon=False)


def _style(number: int) -> dict:
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS) % len(LINES)]}


def _per_step(record: Record, over: str) -> float:
    if over == "step":
        return 1
    examples = record.derived.get("train_examples")
    if not isinstance(examples, int) or examples < 1:
        raise ConfigError(f"{record.workdir / 'config.json'} does not say how many examples an epoch has")
    return record.config.batch_size / examples


def _unit(metric: str) -> str:
    """The unit of a metric."""
    name = metric.rpartition("/")[2]
    if re.search(r"(^|_)(top|r)\d+$|^right$", name):
        return "share of examples"
    return UNITS.get(name, name.replace("_", " "))
