"""Draws the curves of cifar10.sh: python experiments/mae/plot_cifar10.py RUNS cifar10.png (needs matplotlib)."""

import pathlib
import sys

from matplotlib.figure import Figure

from vision_jax.reports.curves import COLORS
from vision_jax.reports.records import Record, read_record


def curve(run: Record, name: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of a metric of a run."""
    step, value = run.history[name]
    return (step * run.config.batch_size / run.derived["train_examples"]).tolist(), value.tolist()


def main(runs: pathlib.Path, out: str):
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    probe, labels = figure.subplots(1, 2)
    random = curve(read_record(runs / "random"), "linear_probe/top1")[1][-1]
    epochs, top1 = curve(read_record(runs / "mae"), "linear_probe/top1")
    probe.plot([0, *epochs], [random, *top1], "o-", color=COLORS[0], label="linear probe")
    probe.axhline(random + 0.1, color="black", linestyle=":", label="random weights + 10 points")
    probe.set(xlabel="epochs of pre-training", ylabel="top-1, share of examples", title="frozen features")
    for name, label, style in (("finetune", "from the MAE", "o-"), ("scratch", "from scratch", "s--")):
        color = COLORS[name == "scratch"]
        labels.plot(*curve(read_record(runs / name), "classification/top1"), style, color=color, label=label)
    labels.set(
        xlabel="epochs on a tenth of the labels", ylabel="top-1, share of examples", title="training on 5,000 labels"
    )
    for axes in (probe, labels):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
