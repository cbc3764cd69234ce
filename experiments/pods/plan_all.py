"""Plans every shipped config for the slice it is meant for, with no TPU present: plans.jsonl and the table of README.md.

    python experiments/pods/plan_all.py                          # what plans.jsonl lacks; minutes for each large model
    python experiments/pods/plan_all.py mae_vith.py vit_s16.py   # these anew

Needs libtpu: pip install -e ".[train,tpu]"; and of data the tables of experiments/labels/digits_csv.py in data/digits.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
PLANS = HERE / "plans.jsonl"
GIB = 2**30

TOPOLOGIES = {
    "clip_digits.py": "v5e:1x1",
    "clip_rn50.py": "v5e:4x4",
    "clip_shapes.py": "v5e:1x1",
    "clip_vitb16.py": "v5e:8x8",
    "clip_vitb32.py:cc12m": "v5e:4x4",
    "clip_vitb32.py:laion": "v5e:16x16",
    "clip_vitl14.py:cc12m": "v5e:8x8",
    "clip_vitl14.py:laion": "v5e:16x16",
    "lit_vitb16.py": "v5e:8x8",
    "mae_cifar10.py": "v5e:1x1",
    "mae_cifar10_finetune.py": "v5e:1x1",
    "mae_cifar10_linear_probe.py": "v5e:1x1",
    "mae_digits.py": "v5e:1x1",
    "mae_digits_finetune.py": "v5e:1x1",
    "mae_digits_linear_probe.py": "v5e:1x1",
    "mae_vitb.py:1600": "v5e:8x8",
    "mae_vitb_finetune.py:b": "v5e:8x8",
    "mae_vitb_finetune.py:h": "v5e:16x16",
    "mae_vitb_linear_probe.py:h": "v5e:8x8",
    "mae_vith.py": "v5e:16x16",
    "mae_vitl.py": "v5e:16x16",
    "multi_label_digits.py": "v5e:1x1",
    "regression_digits.py": "v5e:1x1",
    "siglip_vitb16.py": "v5e:8x8",
    "swin_base.py": "v5e:8x8",
    "swin_base_finetune_384.py:in1k": "v5e:8x8",
    "swin_base_finetune_384.py:in22k": "v5e:8x8",
    "swin_base_in22k.py": "v5e:16x16",
    "swin_cifar10.py": "v5e:1x1",
    "swin_digits.py": "v5e:1x1",
    "swin_small.py": "v5e:8x8",
    "swin_tiny.py": "v5e:4x4",
    "swinv2_tiny_256.py:w16": "v5e:4x4",
    "swinv2_tiny_256.py:w8": "v5e:4x4",
    "vit_b16_augreg.py:i1k": "v5e:8x8",
    "vit_b16_augreg.py:i21k": "v5e:8x8",
    "vit_b16_deit3.py:finetune": "v5e:8x8",
    "vit_b16_deit3.py:pretrain": "v5e:8x8",
    "vit_b16_finetune_384.py": "v5e:4x4",
    "vit_cifar10.py": "v5e:1x1",
    "vit_digits.py": "v5e:1x1",
    "vit_r50_b16.py": "v5e:8x8",
    "vit_s16.py": "v5e:4x4",
}


def read_plans() -> dict[str, dict]:
    """The recorded plans by config."""
    lines = PLANS.read_text().splitlines() if PLANS.exists() else []
    return {plan["config"]: plan for plan in map(json.loads, lines)}


def plan(config: str, topology: str, *arguments: str) -> dict:
    """What `vision_jax.plan` says of a config, in a process of its own, as libtpu wants it."""
    command = [sys.executable, "-m", "vision_jax.plan", f"--config={CONFIGS / config}", f"--topology={topology}"]
    start = time.time()
    result = subprocess.run([*command, "--json", *arguments], capture_output=True, text=True)
    if not result.stdout:
        sys.exit(f"{config}: {result.stderr.strip().splitlines()[-1]}")
    print(f"{config} on {topology}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return {"config": config, "topology": topology, **json.loads(result.stdout)}


def format_table(plans: dict[str, dict]) -> str:
    """A row for each plan."""
    head = "| config | slice | batch | mesh | GiB a chip | step, ms | MFU | hours | chip-hours |"
    rows = [head, "|---|---|---:|---|---:|---:|---:|---:|---:|"]
    for name, plan in sorted(plans.items()):
        mesh = " × ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one chip"
        memory = plan["memory"]
        cells = [f"`{name}`", plan["topology"], f"{plan['batch_size']:,}", mesh]
        cells.append(f"{memory['needed'] / GIB:.2f} of {memory['capacity'] / GIB:.0f}")
        if plan["fits"]:
            cells += [f"{plan['estimate']['step'] * 1e3:.3g}", f"{plan['mfu']:.1%}"]
            cells += [f"{plan['hours']:.3g}", f"{plan['device_hours']:,.4g}"]
        else:
            cells += ["does not fit", "", "", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_table(name: str, table: str) -> None:
    """Puts a table between its marks in README.md."""
    readme = HERE / "README.md"
    marks = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = readme.read_text().split(marks[0])
    readme.write_text(before + marks[0] + table + "\n" + marks[1] + rest.split(marks[1])[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="FILE[:ARG]", help="of configs/; default: what plans.jsonl lacks")
    args = parser.parse_args()
    if unknown := [config for config in args.configs if config not in TOPOLOGIES]:
        parser.error(f"no topology is given for {unknown[0]!r}; known: {', '.join(TOPOLOGIES)}")
    for config in args.configs or [c for c in TOPOLOGIES if c not in read_plans()]:
        made = plan(config, TOPOLOGIES[config])
        plans = {name: known for name, known in read_plans().items() if name in TOPOLOGIES} | {config: made}
        PLANS.write_text("".join(json.dumps(plans[name]) + "\n" for name in sorted(plans)))
    write_table("plans", format_table(read_plans()))


if __name__ == "__main__":
    main()
