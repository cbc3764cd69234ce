"""The errors that end a command in one line, and what they mean for its exit status."""

import signal


class ConfigError(ValueError):
    """A config, file or argument that cannot work; the message names it and says what would be right. Exit status 2."""


class UnknownKey(ConfigError, AttributeError, KeyError):
    """A key that the config does not have; a missing attribute to `hasattr` and `getattr`, a missing item to `in`."""

    __str__ = Exception.__str__  # KeyError's would be the repr


class RunError(RuntimeError):
    """What stops a run from outside its config: a full disk, a lost worker. The message says what is safe. Exit status 1."""


class Stopped(BaseException):
    """A signal stopped the command, which has put in order what it had begun. Exit status 128 + the signal's number.

    No `Exception`, since it may be raised anywhere, and must pass what mends errors there.
    """

    def __init__(self, number: int, message: str = ""):
        self.number = signal.Signals(number)
        super().__init__(message or f"stopped by {self.number.name}")
