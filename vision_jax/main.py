"""Trains or evaluates what a config describes.

    vision-jax train --config=vit_digits --workdir=runs/digits
    vision-jax train --config=vit_s16 --config.batch_size=512 --config.model.drop_path_rate=0.1 --workdir=...
    vision-jax eval --checkpoint=best --workdir=runs/digits

`python -m vision_jax.main` is the same, with `--mode=eval` for the last. A config is the name of a shipped one or a file
that defines `get_config()`, or `get_config(arg)` for `--config=FILE:ARG`. `--config.KEY=VALUE` overrides any key of the
schema or field of the model. Starting again with the same work folder continues the run exactly. Exit status: 0 finished, 2
an error that a user can fix, 1 any other, 128 + its number after a signal; errors are one line on stderr. Several
processes, on a TPU pod, under Slurm or Open MPI, or with `--coordinator=HOST:PORT --process_id=I --num_processes=N`, form
one run: see experiments/launch.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

from vision_jax import limits
from vision_jax.command_line import (
    Parser,
    apply_overrides,
    check_checkpoint,
    load_config,
    parse_overrides,
    report_errors,
)
from vision_jax.config import base_config
from vision_jax.data.sources import check_spec
from vision_jax.errors import ConfigError
from vision_jax.key_help import Help
from vision_jax.schema import REQUIRED
from vision_jax.training.accepting import check_accept
from vision_jax.training.processes import count_of, explicit_processes
from vision_jax.values import shown
from vision_jax.weights.hub import local_path
from vision_jax.weights.work_folder import local_folder, read_run_config

OF_PROCESSES = ("--coordinator", "--process_id", "--num_processes", "--process_timeout")


def parse(argv: list[str], modes: Sequence[str] = ("train", "eval")):
    """(arguments, config, work folder) from a command line; raises ConfigError if something is wrong with them."""
    parser = Parser(f"vision-jax {'|'.join(modes)}", description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", nargs="?", const="", action=Help, metavar="KEY", help="this, or on one key")
    parser.add_argument("--config", default="", help="FILE[:ARG] or NAME[:ARG]; to evaluate: default the work folder's")
    parser.add_argument("--workdir", required=True, help="folder of everything that belongs to the run")
    parser.add_argument("--mode", choices=modes, default=modes[0])
    parser.add_argument("--checkpoint", default="last", help="to evaluate: last (default), best, a step or a folder")
    accept = "go on with a run though this key, or 'data', changed"
    parser.add_argument("--accept", action="append", default=[], metavar="KEY", help=accept)
    parser.add_argument(
        "--verbose", action="store_true", help="print the whole config and the groups of parameters, too"
    )
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, where the environment does not tell")
    parser.add_argument("--process_id", type=int, help="which of the processes this is, from 0")
    parser.add_argument("--num_processes", type=int, help="how many processes train together")
    parser.add_argument("--process_timeout", type=int, default=100, help="seconds until a silent process is lost")
    args, overrides = parser.parse_known_args(argv)
    if not args.workdir:
        raise ConfigError("--workdir must name a folder ('.' for this one)")
    for name in ("process_id", "num_processes", "process_timeout"):
        if (number := getattr(args, name)) is not None and not 0 <= number < limits.PROCESSES:
            raise ConfigError(f"--{name} must lie between 0 and {limits.PROCESSES - 1}, got {shown(number)}")
    check_checkpoint(args.checkpoint, takes_folder=True)
    known = ("--workdir", "--mode", "--checkpoint", "--accept", "--verbose", *OF_PROCESSES)
    if args.config:
        config = load_config(args.config)
        apply_overrides(overrides, config, known)
    elif args.mode == "train":
        parse_overrides(overrides, base_config(), known)  # an unknown argument may be meant as --config
        raise ConfigError("--config=FILE or NAME is needed for training")
    workdir = local_folder(args.workdir)
    if not args.config:
        config = read_run_config(workdir)
        apply_overrides(overrides, config, known)
    check_accept(args.accept, config)
    return args, config, workdir


def check_places(config, workdir: pathlib.Path, mode: str) -> None:
    """Raises ConfigError for data, or weights to start from, that are not there."""
    # A run that goes on needs its source no more.
    if mode == "train" and config.init_from not in ("", REQUIRED) and not (workdir / "config.json").exists():
        local_path(re.sub("^(image|text)=", "", config.init_from))
    for spec in (config.data.train, config.data.eval) if mode == "train" else (config.data.eval,):
        if spec:
            check_spec(spec)


def run(argv: list[str], modes: Sequence[str] = ("train", "eval")) -> None:
    """Does what the command line asks for: the first of the `modes` unless it names another of them."""
    args, config, workdir = parse(argv, modes)
    processes = explicit_processes(args.coordinator, args.process_id, args.num_processes)
    is_alone = count_of(processes) == 1
    if is_alone:  # what the user may have got wrong is told before anything heavy is imported
        check_places(config, workdir, args.mode)
    from vision_jax.training.distributed import several_processes

    with several_processes(processes, args.process_timeout):
        if not is_alone:  # where one of them lacks a file, all end
            check_places(config, workdir, args.mode)
        from vision_jax.training import loop

        if args.mode == "train":
            loop.train(config, workdir, args.accept, verbose=args.verbose, name=args.config)
        else:
            loop.evaluate(config, workdir, args.checkpoint)


@report_errors
def main() -> None:
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
