"""Draws the curves of cifar10.sh: python experiments/mae/plot_cifar10.py RUNS cifar10.png (needs matplotlib)."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def curve(workdir: pathlib.Path, name: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of a metric of a run."""
    derived = json.loads((workdir / "config.json").read_text())["derived"]
    batch = json.loads((workdir / "config.json").read_text())["batch_size"]
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    points = [(row["step"] * batch / derived["train_examples"], row[name]) for row in rows if name in row]
    return tuple(map(list, zip(*points, strict=True)))


def main(runs: pathlib.Path, out: str):
    figure, (probe, labels) = plt.subplots(1, 2, figsize=(9, 3.4))
    random = curve(runs / "random", "linear_probe/top1")[1][-1]
    epochs, top1 = curve(runs / "mae", "linear_probe/top1")
    probe.plot([0, *epochs], [random, *top1], "o-", label="linear probe")
    probe.axhline(random + 0.1, color="grey", linestyle=":", label="random weights + 10 points")
    probe.set(xlabel="epochs of pre-training", ylabel="top-1", title="frozen features")
    for name, label in (("finetune", "from the MAE"), ("scratch", "from scratch")):
        labels.plot(*curve(runs / name, "classification/top1"), "o-", label=label)
    labels.set(xlabel="epochs on a tenth of the labels", ylabel="top-1", title="training on 5,000 labels")
    for axes in (probe, labels):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
