"""What the commands share: config files, `--config.KEY=VALUE` overrides, configs of finished runs, one-line errors."""

import argparse
import ast
import functools
import gc
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Sequence

from vision_jax.config import Section, set_key
from vision_jax.errors import ConfigError, RunError, Stopped, did_you_mean, nearest, not_installed
from vision_jax.files import open_regular, printable
from vision_jax.models.registry import check_name
from vision_jax.schema import CHOOSE, OF_SOURCE
from vision_jax.signals import heard
from vision_jax.synonyms import argument_hint
from vision_jax.values import shown, text

MESSAGE = 1000  # the number of characters of an error that are printed


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing the usage, also for words that a screen cannot show."""

    def __init__(self, *args, formatter_class=argparse.RawTextHelpFormatter, **options):
        super().__init__(*args, formatter_class=formatter_class, **options)

    def parse_args(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            options = [name for name in self._option_string_actions if name.startswith("--") and name != "--help"]
            raise unknown_argument(rest, options)
        return found

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            text("an argument", word)
        return super().parse_known_args(words, namespace)

    def error(self, message: str):
        if missing := re.fullmatch("the following arguments are required: ([^, ]+).*", message):
            names = ((*action.option_strings, action.metavar, action.dest) for action in self._actions)
            actions = zip(names, self._actions, strict=True)
            message = f"{missing[1]} is needed: {next(action.help for names, action in actions if missing[1] in names)}"
        raise ConfigError(message)


def unknown_argument(words: Sequence[str], options: Sequence[str], takes_keys: bool = False) -> ConfigError:
    """The error for the first of some `words` of a command line that no option takes; see `argument_hint`."""
    word, options = words[0], [*options, *["--config.KEY=VALUE"] * takes_keys]
    if takes_keys and not word.startswith("-") and (word in shipped_configs() or os.path.isfile(word)):
        hint = f"; did you mean --config={word}?"
    else:
        hint = argument_hint(words, options, takes_keys)
    return ConfigError(f"unknown argument '{printable(word)}'{printable(hint, 500)}")


def report_errors(command: Callable[[], None]) -> Callable[[], None]:
    """`command`, with errors meant for people turned into one line on stderr and a status: see `vision_jax.errors`."""

    @functools.wraps(command)
    def reporting() -> None:
        status = _status_of(command)
        if status > 128:
            _leave(status)
        if status:
            sys.exit(status)

    return reporting


def _status_of(command: Callable[[], None]) -> int:
    try:
        with heard(_stop):
            command()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    except Exception as error:
        status, line = _told(error)
        if not status:
            raise
        print(f"error: {line}", file=sys.stderr)
        return status
    return 0


def _told(error: Exception) -> tuple[int, str]:
    """(exit status, line) for an error meant for people, (0, "") for any other."""
    if isinstance(error, ConfigError | RunError):
        return 2 if isinstance(error, ConfigError) else 1, printable(" ".join(str(error).split()), MESSAGE)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "vision_jax").partition(".")[0]
        needed = not_installed("this command", package, " ".join(_lacking()))
        return (0, "") if package == "vision_jax" else (2, str(needed))
    if isinstance(error, OSError):
        return (1, f"'{printable(error.filename)}': {error.strerror}") if error.filename else (0, "")
    return _of_machine(error) if isinstance(error, RuntimeError | AssertionError | MemoryError) else (0, "")


def _lacking() -> list[str]:
    """The requirements of the extra `train` that are not installed."""
    found = importlib.metadata.distributions
    lines = [line.partition(";") for package in found(name="vision_jax") for line in package.requires or ()]
    of_train = [requirement.strip() for requirement, _, extra in lines if "train" in extra]
    return [f'"{each}"' for each in of_train if not any(found(name=re.match(r"[\w-]+", each)[0]))]


def _leave(status: int) -> None:
    """Ends the process even while native code, such as a compilation, runs in threads; a normal exit would crash them."""
    gc.collect()  # what the error kept alive, such as batches in memory shared with workers
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop(number: int, _) -> None:
    raise Stopped(number)


def _of_machine(error: RuntimeError | AssertionError | MemoryError) -> tuple[int, str]:
    first = (str(error).splitlines() or [""])[0]
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if "nable to initialize backend" in first or frame.f_code.co_filename.endswith("xla_bridge.py"):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return 2, (
            f"JAX finds no devices of JAX_PLATFORMS={asked} ({first or 'it has no support for them'}): install"
            ' support for them, as with pip install "jax[cuda13]" or "jax[tpu]", or unset JAX_PLATFORMS'
        )
    if isinstance(error, MemoryError):
        return 1, f"out of memory {first}".strip()
    return (1, f"JAX: {first}") if type(error).__name__ == "JaxRuntimeError" else (0, "")


def shipped_configs() -> dict[str, pathlib.Path]:
    """Name -> file of the configs that come along: in the package if it is installed, beside it in a checkout."""
    package = pathlib.Path(__file__).parent
    files = list(package.glob("configs/*.py")) or package.parent.glob("configs/*.py")
    return {file.stem: file for file in sorted(files)}


def _config_file(name: str) -> pathlib.Path:
    path, shipped = pathlib.Path(name), shipped_configs()
    if os.path.isfile(path):
        return path
    if name in shipped:
        return shipped[name]
    if os.path.isdir(path):
        inside = did_you_mean("", [pathlib.Path(file).name for file in _configs_in(path)] or shipped)
        hint = "; a run is named by --workdir" if (path / "config.json").exists() else inside
        raise ConfigError(f"'{printable(name)}' is a folder, and --config takes a file or a name{hint}")
    beside = _configs_in(path.parent) if os.path.isdir(path.parent) else []
    known = beside if beside and path.name != name else [*beside, *shipped]
    hint = argument_hint([name], [], True) if "=" in name else did_you_mean(name, known)
    raise ConfigError(f"no config file or name '{printable(name)}'{hint}")


def _configs_in(folder: pathlib.Path) -> list[str]:
    return [str(path) for path in folder.glob("*.py") if path.is_file() and _is_config(path)]


def _is_config(path: pathlib.Path) -> bool:
    """Whether a file may define `get_config`; other files are not run, whatever they contain."""
    with open_regular(path) as file:
        return b"get_config" in file.read(2**20)


def load_config(spec: str) -> Section:
    """The config for "FILE", "FILE:ARG", "NAME" or "NAME:ARG": what `get_config()` or `get_config(ARG)` there returns.

    NAME is one of `shipped_configs`; a file of that path takes precedence.
    """
    name, _, arg = spec.partition(":")
    path = _config_file(name)
    if not _is_config(path):
        raise ConfigError(
            f"config file '{name}' defines no get_config(): such a file is Python, and get_config() returns what"
            " vision_jax.config.base_config() made"
        )
    try:
        loader = importlib.machinery.SourceFileLoader(path.stem, str(path))  # for any suffix
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, loader))
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"config file '{name}' cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"config file '{name}' defines no get_config()")
    takes_arg = bool(inspect.signature(module.get_config).parameters)
    if arg and not takes_arg:
        raise ConfigError(f"config file '{name}' takes no argument, got ':{arg}'")
    try:
        config = module.get_config(arg) if arg else module.get_config()
    except ConfigError as error:
        raise ConfigError(f"config file '{name}': {error}") from error
    except Exception as error:
        raise ConfigError(f"config file '{spec}': {type(error).__name__}: {error}") from error
    if not isinstance(config, Section):
        raise ConfigError(
            f"config file '{name}': get_config() must return what base_config() made, got {type(config).__name__}"
        )
    return config


def check_checkpoint(name: str, takes_folder: bool = False) -> None:
    """Raises ConfigError if no run can have this `--checkpoint`."""
    if name not in ("last", "best") and not name.isdecimal() and not (takes_folder and os.path.exists(name)):
        kinds = "last, best, a step or a folder" if takes_folder else "last, best or a step"
        close = nearest(name, ("last", "best"))
        hint = f"; did you mean '{close}'?" if close else ""
        raise ConfigError(f"--checkpoint takes {kinds}, got {shown(name)}{hint}")


def apply_overrides(argv: list[str], config: Section, known: Sequence[str] = ()) -> None:
    """Applies `--config.KEY=VALUE` arguments; sections merge. `known`: the command's other arguments, for messages."""
    for key, value in sorted(
        parse_overrides(argv, config, known), key=lambda pair: pair[0].rpartition(".")[2] not in CHOOSE
    ):
        if key == "model.name" and value != OF_SOURCE:
            check_name(str(value))
        set_key(config, key, value)


def parse_overrides(argv: list[str], config: Section, known: Sequence[str] = ()) -> list[tuple[str, object]]:
    """(dotted key, value) of each `--config.KEY=VALUE` or `--config.KEY VALUE`; `--config.KEY` alone is True.

    A value is read as a Python literal unless the key takes text; text that is not a literal stays text.
    """
    overrides, words = [], list(argv)
    while words:
        word = words.pop(0)
        key, equals, text = word.partition("=")
        if not key.startswith("--config."):
            raise unknown_argument([word, *words], ["--config", *known], takes_keys=True)
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        key = key.removeprefix("--config.")
        overrides.append((key, read_value(text, _type_of(key, config))))
    return overrides


def _type_of(key: str, config: Section):
    *parents, leaf = key.split(".")
    section = config
    for depth, name in enumerate(parents):
        if section.is_open and name not in section:
            return None  # a mapping among a model's fields, still empty
        section = section[name]
        if not isinstance(section, Section):
            raise ConfigError(f"config key '{'.'.join(parents[: depth + 1])}' has no keys of its own, got '{key}'")
    return section.leaf_type(leaf)


def read_value(text: str, kind):
    """The value that an argument's text stands for, where a `kind` of value or any (None) is wanted."""
    kinds = typing.get_args(kind) or (kind,)
    if kinds == (str,):
        return text
    try:
        with warnings.catch_warnings(action="ignore"):  # about an invalid escape in a text
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # e.g. deep nesting, or a list as a key
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
