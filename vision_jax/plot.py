"""Plots what runs reported over their steps: losses and evaluation metrics, one panel per metric, one colour per run.

    vision-jax plot runs/digits --out=digits.png
    vision-jax plot runs/wide runs/narrow --over=epoch --out=both.svg
    vision-jax plot runs --metrics=classification/top1,train/loss --out=all.png

A folder that is not a run stands for the runs in it. Needs matplotlib.
"""

from vision_jax.command_line import Parser, report_errors
from vision_jax.errors import ConfigError
from vision_jax.files import user_path

FORMATS = (".png", ".svg", ".pdf")


@report_errors
def main() -> None:
    parser = Parser("vision-jax plot", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work folders, or folders of them")
    parser.add_argument("--out", required=True, metavar="FILE", help="to write: .png, .svg or .pdf")
    parser.add_argument("--metrics", default="", help="names, separated by commas")
    parser.add_argument("--over", choices=("step", "epoch"), default="step", help="what runs along (default: step)")
    args = parser.parse_args()
    out = user_path(args.out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out must end in {', '.join(FORMATS)}, got {args.out}")
    from vision_jax.reports.curves import draw, make_figure
    from vision_jax.reports.records import read_records

    figure, records = make_figure("vision-jax plot"), read_records(args.runs)
    draw(figure, records, [name for name in args.metrics.split(",") if name], args.over)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}") from error
    print(f"{out}: {', '.join(record.name for record in records)}")


if __name__ == "__main__":
    main()
