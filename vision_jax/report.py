"""Writes a report on a run as one page without network or scripts: results, curves, mistakes, config, origin.

    vision-jax report runs/digits --out=digits.html
    vision-jax report runs/wide --against=runs/narrow --out=wide.html

A classifier is evaluated again on its evaluation data, if they are available, for its confusion matrix and the most
confident mistakes. Needs matplotlib.
"""

from vision_jax.command_line import Parser, report_errors
from vision_jax.errors import ConfigError
from vision_jax.files import user_path, whole_file


@report_errors
def main() -> None:
    parser = Parser("vision-jax report", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a work folder")
    parser.add_argument("--out", required=True, metavar="FILE.html", help="to write")
    parser.add_argument("--against", default="", metavar="RUN", help="a run to compare with")
    parser.add_argument(
        "--checkpoint",
        default="",
        help="whose mistakes are shown: best, last or a step (default: best, if one is known)",
    )
    args = parser.parse_args()
    out = user_path(args.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out must end in .html, got {args.out}")
    from vision_jax.reports.curves import make_figure
    from vision_jax.reports.page import report
    from vision_jax.reports.records import distinct_names, read_record
    from vision_jax.weights.work_folder import local_folder, locate

    folders = [local_folder(folder) for folder in (args.run, args.against) if folder]
    make_figure("vision-jax report")  # so that a missing package is reported at once
    if args.checkpoint:
        locate(folders[0], args.checkpoint)
    records = [read_record(*each) for each in zip(folders, distinct_names(folders), strict=True)]
    text = report(*records, checkpoint=args.checkpoint)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}") from error
    print(f"{out}: {len(text) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
