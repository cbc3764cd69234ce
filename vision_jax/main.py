"""Trains or evaluates what a config describes.

    python -m vision_jax.main --config=configs/vit_digits.py --workdir=runs/digits
    python -m vision_jax.main --config=configs/vit_s16.py --config.batch_size=512 --config.model.drop_path_rate=0.1 --workdir=...
    python -m vision_jax.main --mode=eval --checkpoint=best --workdir=runs/digits

A config file defines `get_config()`, or `get_config(arg)` for `--config=FILE:ARG`. `--config.KEY=VALUE` overrides any key
of the schema or field of the model. Starting again with the same work folder continues the run exactly. Errors that a
user can mend are one line on stderr and exit status 2.
"""

import argparse
import functools
import pathlib
import sys

from vision_jax.command_line import Parser, load_config, parse_overrides, read_run_config, report_errors
from vision_jax.errors import ConfigError


def parse(argv: list[str]):
    """(arguments, config, work folder) of a command line; raises ConfigError where something is wrong with them."""
    parser = Parser(
        "vision_jax.main", description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", default="", help="FILE or FILE:ARG; with --mode=eval the work folder's own by default"
    )
    parser.add_argument("--workdir", required=True, help="folder of everything that belongs to the run")
    parser.add_argument("--mode", choices=("train", "eval"), default="train")
    parser.add_argument(
        "--checkpoint", default="last", help="what --mode=eval loads: last, best, a step or a folder (default: last)"
    )
    args, overrides = parser.parse_known_args(argv)
    workdir = pathlib.Path(args.workdir).expanduser().absolute()
    if args.config:
        config = load_config(args.config)
    elif args.mode == "eval":
        config = read_run_config(workdir)
    else:
        raise ConfigError("--config=FILE is needed for training")
    for key, value in parse_overrides(overrides, config):
        first, *rest = key.split(".")
        config[first] = functools.reduce(lambda inner, name: {name: inner}, reversed(rest), value)  # sections merge
    return args, config, workdir


def run(argv: list[str]) -> None:
    args, config, workdir = parse(argv)
    from vision_jax.training import loop  # the command line is checked before anything heavy is imported

    if args.mode == "train":
        loop.train(config, workdir)
    else:
        loop.evaluate(config, workdir, args.checkpoint)


@report_errors
def main() -> None:
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
