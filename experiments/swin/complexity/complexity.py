"""What attention costs as images grow: all tokens at once (ViT) against windows (Swin), in FLOPs and in time.

    python experiments/swin/complexity/complexity.py          # writes results.md and complexity.png beside this file

The two models differ in attention alone: patch 16, width 192, 3 heads, 12 layers, an MLP of 768, mean pooling and no
classifier, once as ViT-Ti without a cls token and once as a Swin of a single stage. As most of their cost is linear in
both, the part that depends on pairs of tokens is measured alone as well, for one layer: from queries, keys and values to
what attention gives, in Swin's case with the shift, the cut into windows, bias and mask of a shifted layer. swin_t, at
patch 4 and with four stages, is the model as published.

FLOPs are the compiler's count for the compiled forward pass of one image. Exponents are slopes of log cost over log
pixels, fitted where whole windows cover the one-stage map: at multiples of 112 pixels. At 1024 its 64 x 64 tokens are
padded to 70 x 70, a step that says nothing about growth: shown, but not fitted.
"""

import argparse
import importlib.util
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.models import create_model
from vision_jax.ops import windows
from vision_jax.ops.attention import attention
from vision_jax.reports import curves

PATCH, WIDTH, HEADS, WINDOW = 16, 192, 3, 7
VIT_PAIRS, SWIN_PAIRS = "ViT, pairs", "Swin, pairs"
COLORS = {"ViT": curves.COLORS[1], "Swin": curves.COLORS[0], "swin_t": curves.COLORS[2]}


def make_models(depth: int, dtype) -> dict:
    same = {"num_classes": 0, "patch_size": PATCH, "width": WIDTH, "act": "gelu_tanh", "dtype": dtype}
    return {
        "ViT": create_model("vit_ti16", **same, depth=depth, pool="gap"),
        "Swin, one stage": create_model("swin_t", **same, depths=(depth,), num_heads=(HEADS,), window=WINDOW),
        "swin_t": create_model("swin_t", num_classes=0, dtype=dtype),
    }


def global_attention(q, k, v):
    """[1, h, w, heads, d] of each to [1, hw, heads, d]."""
    return attention(*(x.reshape(1, -1, *x.shape[3:]) for x in (q, k, v)))


def window_attention(q, k, v, table):
    """[1, h, w, heads, d] of each and the biases [2M-1, 2M-1, heads] to [1, h, w, heads, d], as in a shifted layer."""
    size = q.shape[1:3]
    window, shift = windows.fit_window(size, (WINDOW, WINDOW))
    q, k, v = (windows.cyclic_shift(windows.pad_to_multiple(x, window), shift) for x in (q, k, v))
    padded = q.shape[1:3]
    regions = windows.window_regions(size, window, shift)
    mask = None if regions is None else windows.region_mask(regions)
    q, k, v = (windows.partition(x, window) for x in (q, k, v))
    out = windows.unpartition(attention(q, k, v, bias=windows.relative_bias(table), mask=mask), padded, window)
    return windows.cyclic_shift(out, (-shift[0], -shift[1]))[:, : size[0], : size[1]]


def compile_all(models: dict, resolution: int, dtype) -> dict:
    """name -> (compiled, shapes of its arguments): of each model, and of the pairs of one layer of ViT and of Swin."""
    side, key = resolution // PATCH, jax.random.key(0)
    images = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
    qkv = (jax.ShapeDtypeStruct((1, side, side, HEADS, WIDTH // HEADS), dtype),) * 3
    table = jax.ShapeDtypeStruct((2 * min(WINDOW, side) - 1,) * 2 + (HEADS,), jnp.float32)
    functions = {
        name: (model.apply, (jax.eval_shape(model.init, key, images), images)) for name, model in models.items()
    }
    functions |= {VIT_PAIRS: (global_attention, qkv), SWIN_PAIRS: (window_attention, (*qkv, table))}
    return {name: (jax.jit(f).lower(*shapes).compile(), shapes) for name, (f, shapes) in functions.items()}


def flops(compiled) -> float:
    """The compiler's count, in which a multiply-add is two and exponentials are not contained."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])  # some versions of JAX give a list


def seconds(compiled: dict, rounds: int) -> dict[str, float]:
    """The median of each program's runs. They alternate one by one, so that noise falls on all; a first round warms up."""
    rng = np.random.default_rng(0)

    def noise(x):
        return jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32), x.dtype)  # values change no cost

    ready = {name: (program, jax.tree.map(noise, shapes)) for name, (program, shapes) in compiled.items()}
    times: dict[str, list] = {name: [] for name in ready}
    for _ in range(rounds + 1):
        for name, (program, arguments) in ready.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def whole(resolution: int) -> bool:
    """Whether whole windows cover the one-stage Swin's map."""
    return resolution % (PATCH * WINDOW) == 0


def exponents(resolutions, costs) -> tuple[float, float, float]:
    """Of cost over pixels: fitted by least squares, between the first two resolutions and between the last two."""
    points = [(2 * np.log(side), np.log(cost)) for side, cost in zip(resolutions, costs, strict=True) if whole(side)]
    pixels, costs = np.transpose(points)
    local = np.diff(costs) / np.diff(pixels)
    return float(np.polyfit(pixels, costs, 1)[0]), float(local[0]), float(local[-1])


def four_digits(value: float) -> str:
    return np.format_float_positional(value, 4, unique=False, fractional=False, trim="-")


def markdown(resolutions, costs: dict, conditions: str) -> str:
    """costs: unit -> name -> one number for each resolution."""
    lines = [f"Measured by `complexity.py`: {conditions}. Pairs are one layer's; padded sizes are not fitted.", ""]
    for unit, series in costs.items():
        lines += [f"| {unit} | {' | '.join(series)} |", "|---|" + "---:|" * len(series)]
        for side, *row in zip(resolutions, *series.values(), strict=True):
            note = "" if whole(side) else ", padded"
            lines.append(f"| {side}²{note} | {' | '.join(map(four_digits, row))} |")
        lines.append("")
    lines += ["| exponent over pixels | of | fitted | first two sizes | last two sizes |", "|---|---|---:|---:|---:|"]
    for unit, series in costs.items():
        for name, row in series.items():
            lines.append(f"| {unit} | {name} | {' | '.join(f'{e:.3f}' for e in exponents(resolutions, row))} |")
    return "\n".join([*lines, ""])


def draw(path: pathlib.Path, resolutions, costs: dict, conditions: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    kept, pixels = np.array([whole(side) for side in resolutions]), np.array(resolutions) ** 2
    for axis, (unit, series) in zip(figure.subplots(1, 2), costs.items(), strict=True):
        for name, row in series.items():
            color, line = COLORS[name.split(",")[0]], "--" if "pairs" in name else "-"
            label, row = f"{name}: {exponents(resolutions, row)[0]:.2f}", np.array(row)
            axis.plot(pixels[kept], row[kept], line, color=color, marker="o", markersize=4, label=label)
            axis.plot(pixels[~kept], row[~kept], "o", color=color, markersize=5, markerfacecolor="white")
        axis.set(xscale="log", yscale="log", xlabel="image size, pixels", ylabel=f"{unit} for one image")
        axis.set_xticks(pixels[kept], [f"{side}²" for side in np.array(resolutions)[kept]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        legend = {
            "loc": "upper center",
            "bbox_to_anchor": (0.5, -0.13),
            "ncols": 2,
            "handlelength": 3,
            "frameon": False,
        }
        axis.legend(title=f"fitted exponent of {unit} over pixels", fontsize=9, title_fontsize=9, **legend)
    figure.suptitle(f"{conditions}\nhollow: padded to whole windows, not fitted", fontsize=9)
    figure.savefig(path, dpi=110)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[224, 336, 448, 672, 1008, 1024])
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--depth", type=int, default=12, help="layers of the ViT and of the one-stage Swin")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each, of which the median counts")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    args = parser.parse_args(argv)
    resolutions = sorted(set(args.resolutions))
    if min(resolutions) < 1 or any(side % PATCH for side in resolutions) or sum(map(whole, resolutions)) < 2:
        parser.error(f"--resolutions must be multiples of {PATCH}, and two of them of {PATCH * WINDOW}: {resolutions}")
    drawable = importlib.util.find_spec("matplotlib") is not None
    if not drawable:
        print("matplotlib is missing, so there will be tables but no figure: pip install matplotlib")

    dtype = jnp.dtype(args.compute)
    models = make_models(args.depth, dtype)
    costs: dict = {unit: {name: [] for name in (*models, VIT_PAIRS, SWIN_PAIRS)} for unit in ("GFLOPs", "milliseconds")}
    for resolution in resolutions:
        compiled = compile_all(models, resolution, dtype)
        for name, duration in seconds(compiled, args.rounds).items():
            costs["GFLOPs"][name].append(flops(compiled[name][0]) / 1e9)
            costs["milliseconds"][name].append(1e3 * duration)
        print(resolution, {name: f"{row[-1]:.4g} ms" for name, row in costs["milliseconds"].items()}, flush=True)
    hardware = f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}"
    conditions = f"{args.compute}, {args.depth} layers, median of {args.rounds} runs, {hardware}"
    report = markdown(resolutions, costs, conditions)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(report, encoding="utf-8")
    print(report)
    if drawable:
        draw(args.out / "complexity.png", resolutions, costs, conditions)


if __name__ == "__main__":
    main()
