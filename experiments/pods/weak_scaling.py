"""Weak scaling on paper: what a chip computes, exchanges and holds as slices grow and the batch with them.

    python experiments/pods/weak_scaling.py     # weak_scaling.{jsonl,png} and the table of README.md; what is recorded stays

All figures are of the compiled train steps; nothing is run. Needs libtpu (pip install -e ".[train,tpu]"), and
matplotlib for the plot.
"""

import argparse
import json
import pathlib
from typing import NamedTuple

from plan_all import GIB, HERE, plan, write_table

from vision_jax.reports.curves import COLORS

RECORD = HERE / "weak_scaling.jsonl"
SLICES = {4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}


class Case(NamedTuple):
    name: str
    config: str
    batch: int  # of a chip
    arguments: tuple[str, ...]


SCAN = "--config.model.scan=True"  # compiles faster
CASES = (
    Case("ViT-S/16", "vit_s16.py", 64, (SCAN,)),
    Case("MAE-L/16, fsdp", "mae_vitl.py", 16, (SCAN, "--config.mesh.data=1", "--config.mesh.fsdp=-1")),
    Case("CLIP-B/32", "clip_vitb32.py:laion", 128, (SCAN,)),
)


def compile_all() -> None:
    """Appends to the record what it lacks."""
    known = {(row["name"], row["devices"]) for row in read()}
    for case in CASES:
        for chips, topology in SLICES.items():
            if (case.name, chips) not in known:
                # A recipe's warm-up may be longer than what is left of its examples at the largest batch.
                batch = f"--config.batch_size={case.batch * chips}", "--config.schedule.warmup=0 steps"
                made = plan(case.config, topology, *batch, *case.arguments)
                with RECORD.open("a") as file:
                    file.write(json.dumps({"name": case.name, **made}) + "\n")


def read() -> list[dict]:
    rows = [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    names = [case.name for case in CASES]
    return sorted(rows, key=lambda row: (names.index(row["name"]), row["devices"]))


def received(row: dict) -> float:
    """Bytes that a chip receives from others in a step."""
    return sum(exchange["received"] for exchange in row["collectives"])


def format_table(rows: list[dict]) -> str:
    lines = [
        "| | chips | batch | TFLOPs a chip | received, MB a chip | memory, GiB a chip | step, ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["name"], f"{row['devices']}", f"{row['batch_size']:,}", f"{row['flops_per_device'] / 1e12:.4f}"]
        cells += [f"{received(row) / 1e6:,.1f}", f"{row['memory']['needed'] / GIB:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['estimate']['step'] * 1e3:.4g} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for case, color, marker in zip(CASES, COLORS, "os^", strict=False):
        of_case = [row for row in rows if row["name"] == case.name]
        chips = [row["devices"] for row in of_case]
        for axis, values in zip(axes, ([r["flops_per_device"] for r in of_case], map(received, of_case)), strict=True):
            values = list(values)
            axis.plot(chips, [value / values[0] for value in values], f"{marker}-", color=color, label=case.name)
    for axis, title in zip(axes, ("FLOPs of a chip in a step", "bytes that a chip receives in a step"), strict=True):
        axis.set(title=title, xlabel="chips, the batch in proportion", ylabel="times those on 4 chips")
        axis.set(xscale="log", ylim=(0, 3))
        axis.set_xticks(list(SLICES), list(map(str, SLICES)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    compile_all()
    rows = read()
    write_table("weak scaling", format_table(rows))
    plot(rows, HERE / "weak_scaling.png")


if __name__ == "__main__":
    main()
