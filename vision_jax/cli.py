"""The console command `vision-jax`: `vision-jax predict ...` is `python -m vision_jax.predict ...`, and so on."""

import importlib
import os
import sys
import textwrap

import vision_jax
from vision_jax.command_line import report_errors, shipped_configs
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable

COMMANDS = {
    "train": "train what a config describes, or go on with it",
    "eval": "evaluate a run",
    "predict": "classes, chosen labels or features of pictures",
    "convert": "weights from one project's format into another's",
    "plan": "whether a config fits devices that need not be there, and how long it takes",
    "visualize": "what a masked autoencoder makes of pictures",
    "runs": "a table of runs: what they measured, where they differ",
    "plot": "curves of runs",
    "report": "all about a run on one page",
}


def usage() -> str:
    commands = "\n".join(f"  {name:10} {meaning}" for name, meaning in COMMANDS.items())
    configs = textwrap.fill(", ".join(shipped_configs()), 100, initial_indent="  ", subsequent_indent="  ")
    return (
        "usage: vision-jax COMMAND ...\n\n"
        f"{commands}\n\n`vision-jax COMMAND --help` says more. A --config is a file or one of these:\n\n{configs}"
    )


@report_errors
def main() -> None:
    sys.path.append(os.getcwd())  # for the user's own parts, as with python -m
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(f"vision-jax {vision_jax.__version__}")
    elif command not in COMMANDS:
        word = f"no command '{printable(command)}'" if not command.startswith("-") else "a command comes first"
        raise ConfigError(f"{word}{did_you_mean(command, COMMANDS)}")
    elif command in ("train", "eval"):
        importlib.import_module("vision_jax.main").run(rest, [command])
    else:
        sys.argv[1:] = rest
        importlib.import_module(f"vision_jax.{command}").main()
