"""What a config may hold: values that survive a round trip through JSON."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.files import printable


def plain(what: str, value: Any, depth: int = 0) -> Any:
    """`value` with lists as tuples, so that it hashes and compares equal after a round trip through JSON.

    Raises ConfigError that begins with `what`: for types other than None, bool, int, float, str, list, tuple and a
    mapping from names; for numbers that are not finite, or beyond 64 bits or a float32; for texts that cannot be in a
    file name.
    """
    if depth > limits.VALUE_DEPTH:
        raise ConfigError(f"{what}: lists nested more than {limits.VALUE_DEPTH} deep")
    if isinstance(value, list | tuple):
        return tuple([plain(what, item, depth + 1) for item in value])
    if isinstance(value, Mapping):
        if wrong := [name for name in value if type(name) is not str]:
            raise ConfigError(f"{what}: names must be text, got {shown(wrong[0])}")
        return {text(what, name): plain(what, item, depth + 1) for name, item in value.items()}
    if type(value) is str:
        return text(what, value)
    if type(value) is int and abs(value) >= limits.INTEGER:
        raise ConfigError(f"{what}: a number past 64 bits, {shown(value)}")
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{what} must be finite, got {value}")
    if type(value) is float and abs(value) > limits.FLOAT:
        raise ConfigError(f"{what} must be a float32, at most {limits.FLOAT:.2g}; got {value}")
    if not (value is None or type(value) in (bool, int, float)):
        raise ConfigError(
            f"{what} takes numbers, texts, True, False, None and lists of them,"
            f" got {type(value).__name__} {shown(value)}"
        )
    return value


def as_float(what: str, value: int) -> float:
    """`value` where a float is wanted; raises ConfigError if none equals it, as 2**53 + 1, rather than round it."""
    with contextlib.suppress(OverflowError):
        if float(value) == value:
            return float(value)
    raise ConfigError(f"{what} must be a float, and none equals {shown(value)}")


def text(what: str, value: str) -> str:
    """Returns `value`; raises ConfigError if it contains NUL or half a character, which files and screens do not take."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{what}: no text may hold NUL or what is not Unicode, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The repr of a value from a user or a file, in one line and of limited length."""
    try:
        return printable(repr(value))
    except (RecursionError, ValueError):  # ValueError: an int with more digits than Python prints
        return f"a very large {type(value).__name__}"
