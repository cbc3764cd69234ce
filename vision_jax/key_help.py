"""`--help`: every key of the config with its default and meaning, and `--help KEY` on one of them."""

import argparse
import textwrap
import typing
from collections.abc import Iterator
from typing import NamedTuple

from vision_jax.errors import ConfigError
from vision_jax.files import printable
from vision_jax.schema import SCHEMA, Duration, Key, Part, Several
from vision_jax.synonyms import key_hint

WIDTH, COLUMN = 100, 36


class Row(NamedTuple):
    """A key's full name, its entry in the schema, and the parts that have it as a field (empty if it belongs to all)."""

    name: str
    key: Key
    parts: tuple[str, ...] = ()


class Help(argparse.Action):
    """Prints help and ends: the usage and all keys or, for `--help KEY`, an explanation of that key or section."""

    def __call__(self, parser, namespace, key, option_string=None):
        print(explain(key) if key else f"{parser.format_help()}\n{all_keys()}")
        parser.exit()


def rows(entry: Key | dict | Part | Several = SCHEMA, path: str = "") -> Iterator[Row]:
    """All keys below an entry; "NAME" stands for a name of the user's choice."""
    if isinstance(entry, Key):
        yield Row(path, entry)
    elif isinstance(entry, Several):
        yield from rows({name: key for name, key in entry.keys.items() if isinstance(key, Key)}, path)
        yield from rows(entry.part, f"{path}.NAME")
    elif isinstance(entry, Part):
        yield from rows(entry.keys, path)
        for name, key in dict.fromkeys(field for own in entry.own.values() for field in own.items()):
            owners = tuple(part for part, own in entry.own.items() if own.get(name) == key)
            yield Row(f"{path}.{name}", key, owners if len(owners) < len(entry.own) else ())
    else:
        for name, inner in entry.items():
            yield from rows(inner, f"{path}.{name}".lstrip("."))


def all_keys() -> str:
    lines = [
        "keys of the config, each --config.KEY=VALUE, with their defaults (--help KEY says more of one):",
        *(_line(row) for row in rows()),
        "  model.FIELD",
        _wrapped("any field of the model that model.name chooses, such as model.width=384", COLUMN),
    ]
    return "\n".join(lines)


def explain(name: str) -> str:
    """An explanation of a key, or of a section's keys. Raises ConfigError naming the nearest for any other."""
    name = name.removeprefix("--").removeprefix("config.").partition("=")[0]
    known = list(rows())
    found = [row for row in known if row.name == _general(name)]
    if not found:
        if inside := [row for row in known if row.name.startswith(f"{_general(name)}.")]:
            return "\n".join(_line(row) for row in inside)
        if name.startswith("model."):
            return f"--config.{name}=VALUE\n    a field of the model that model.name chooses, where it has one of that name"
        hint = key_hint(name, "", [row.name for row in known]) or "; --help alone lists all"
        raise ConfigError(f"--help: no config key '{printable(name)}'{printable(hint, 500)}")
    return "\n".join(_explained(name, row) for row in found)


def _explained(name: str, row: Row) -> str:
    lines = [f"--config.{name}={_shown(row.key)}", _wrapped(row.key.meaning, 4)]
    lines += [f"    type: {_type(row.key)}"]
    if row.key.choices:
        lines += [f"    one of {', '.join(row.key.choices)}" + ", or package.module:Attribute" * row.key.imports]
    lines += [f"    for {', '.join(row.parts)}"] if row.parts else []
    return "\n".join(lines)


def _general(name: str) -> str:
    """The name with NAME in place of a user's choice."""
    words = name.split(".")
    section = words[:2] if words[:1] == ["log"] else words[:1]
    entry = SCHEMA
    for word in section:
        entry = entry.get(word, {}) if isinstance(entry, dict) else {}
    place = len(section)
    if isinstance(entry, Several) and len(words) > place + 1:
        words[place] = "NAME"
    return ".".join(words)


def _line(row: Row) -> str:
    start = f"  {row.name}={_shown(row.key)}"
    meaning = _wrapped(row.key.meaning + (f" ({', '.join(row.parts)})" if row.parts else ""), COLUMN)
    return f"{start:<{COLUMN}}{meaning.lstrip()}" if len(start) < COLUMN - 1 else f"{start}\n{meaning}"


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def _shown(key: Key) -> str:
    return f"'{key.default}'" if isinstance(key.default, str) else str(key.default)


def _type(key: Key) -> str:
    if key.type is Duration:
        return "'N steps', 'N epochs' or 'N examples'"
    return " or ".join(
        getattr(kind, "__name__", str(kind)).replace("NoneType", "None")
        for kind in typing.get_args(key.type) or [key.type]
    )
