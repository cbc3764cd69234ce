"""The errors that end a command with one line, and their exit status."""

import difflib
import signal
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A config, file or argument that cannot work; the message names it and says what would be right. Exit status 2."""


class UnknownKey(ConfigError, AttributeError, KeyError):
    """A key that the config does not have; a missing attribute to `hasattr` and `getattr`, a missing item to `in`."""

    __str__ = Exception.__str__  # KeyError's would be the repr


class RunError(RuntimeError):
    """A cause outside the config stops a run: a full disk, a lost worker. The message says what is safe. Exit status 1."""


def not_installed(what: str, package: str, install: str = "") -> ConfigError:
    """The error for `what`, which needs a package; `install`: what pip takes, if that is not the package's name."""
    return ConfigError(
        f"{what} needs the package '{package}', which is not installed: pip install {install or package}"
    )


class Stopped(BaseException):
    """A signal stopped the command, which has cleaned up what it had begun. Exit status 128 + the signal's number.

    Not an `Exception`, since it may be raised anywhere and must pass through handlers of errors there.
    """

    def __init__(self, number: int, message: str = ""):
        self.number = signal.Signals(number)
        super().__init__(message or f"stopped by {self.number.name}")


def did_you_mean(name: Any, known: Iterable) -> str:
    """The end of a message about an unknown name: the nearest known one, else all known ones if they are few."""
    known = sorted(map(str, known))
    if close := nearest(name, known):
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(known)}" if len(known) <= 40 else ""


def nearest(name: Any, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known name most similar to another, "" if none is similar."""
    return next(iter(difflib.get_close_matches(str(name)[:200], sorted(known), 1, likeness)), "")
