"""The config of an experiment: sections whose keys, types and defaults are those of `vision_jax.schema`.

A config file contains only what differs from the defaults:

    from vision_jax.config import base_config

    def get_config(arg="s16"):
        c = base_config()
        c.model = dict(name=f"vit_{arg}", drop_path_rate=0.1)   # merged into the section, not replacing it
        c.batch_size = 1024
        c.duration = "90 epochs"
        return c

Unknown keys and wrong types raise `ConfigError` where they are assigned, and name the nearest known key. This module
imports neither jax nor any model, so that config files load anywhere and fast.
"""

import functools
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import ml_collections

from vision_jax import limits
from vision_jax.errors import ConfigError, UnknownKey, did_you_mean
from vision_jax.files import printable
from vision_jax.schema import CHOOSE, IMPORTED, SCHEMA, Duration, Key, Part, Several
from vision_jax.synonyms import key_hint
from vision_jax.values import as_float, plain, shown

_IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)  # for a model's field


class Section(MutableMapping, ml_collections.ConfigDict):
    """A section of the config: a mapping, also by attributes, whose keys, types and choices come from the schema.

    Equal to any mapping with the same keys and values. Copies, deep or shallow, and unpickled sections share nothing with
    the original.
    """

    def __init__(self, entry: dict | Part | Several, path: str = "", part: str = ""):
        """part: the section's part, if none of its own keys names it and it is not the schema's default."""
        ml_collections.ConfigDict.__init__(self, type_safe=False)  # the schema checks types more strictly
        vars(self).update(_entry=entry, _path=path, _part=part, _set={})  # _set: sections, and values set explicitly
        for name, inner in self._schema.items():
            if not isinstance(inner, Key):
                self._set[name] = Section(inner, f"{path}{name}.")

    @property
    def _fields(self) -> dict[str, Any]:
        """What a ConfigDict keeps under this name; its own methods, such as printing, read it."""
        return {name: self[name] for name in self}

    @_fields.setter
    def _fields(self, _: dict) -> None:
        """Does nothing: a ConfigDict sets this when it is created, before there is anything to keep."""

    @property
    def _schema(self) -> dict:
        """The keys that the schema has for this section; it may take others, too."""
        entry = self._entry
        if isinstance(entry, Part):
            return entry.keys | entry.own.get(self.part, {})
        return entry.keys if isinstance(entry, Several) else entry

    @property
    def part(self) -> str:
        """The name of the part that this section belongs to."""
        if not isinstance(self._entry, Part):
            return ""
        by, keys = self._entry.by, self._entry.keys
        return self._set.get(by) or self._part or ((keys.get(by) or SCHEMA[by]).default if by else "")

    @property
    def own_fields(self) -> dict[str, Any]:
        """The values of the part's own fields that are set here; for a built-in part, with defaults."""
        return {name: value for name, value in to_dict(self).items() if name not in self._entry.keys}

    @property
    def explicit(self) -> dict[str, Any]:
        """What was set here, even to the default, as plain nested dictionaries: no other defaults, and none from a name."""
        return {name: value.explicit if isinstance(value, Section) else value for name, value in self._set.items()}

    def __setitem__(self, name: str, value: Any) -> None:
        entry = self._schema.get(name) if isinstance(name, str) else None
        if entry is None and not (self.is_open and isinstance(name, str) and _IDENTIFIER.fullmatch(name)):
            raise self._unknown(name, self._schema)
        if isinstance(self._entry, Several) and not isinstance(entry, Key):
            self._set_part(name, value)
        elif isinstance(entry, Key):
            before = self.get(name)
            self._set[name] = check(f"{self._path}{name}", entry, value)
            if self[name] != before:
                self._chosen(name, before)
        elif isinstance(value, Mapping):
            if not isinstance(self._set.get(name), Section):  # a mapping among the fields of a part
                self._set[name] = Section(Part({}, {}, ""), f"{self._path}{name}.")
            self._set[name].merge(value)
        elif entry is not None:
            raise self._set[name].wants_keys(value)
        else:
            self._set[name] = plain(f"config key '{self._path}{name}'", value)

    def _set_part(self, name: str, value: Any) -> None:
        if value is None and name in self._schema:
            self._set[name]["every"] = ""
        elif value is None:
            self._set.pop(name, None)
        else:
            known = name if name in self._entry.part.own else ""
            section = self._set.get(name) or Section(self._entry.part, f"{self._path}{name}.", known)
            if not isinstance(value, Mapping):
                raise section.wants_keys(value)
            section.merge(value)
            self._set[name] = section

    def _chosen(self, key: str, before: str) -> None:
        """If `key` chooses a part, removes fields set for another part, except those shared by built-in parts or models."""
        for section in (self, *self._set.values()):
            entry = section._entry if isinstance(section, Section) else None
            if not isinstance(entry, Part) or entry.by != key or (section is self) != (key in entry.keys):
                continue
            if section is not self:
                vars(section).update(_part=self[key])
            kept = section._set if not entry.own else section._schema if before in entry.own else entry.keys
            for name in section._set.keys() - kept.keys():
                del section._set[name]

    def merge(self, values: Mapping) -> None:
        """Sets the given values and keeps the others; keys that choose a part come first, before the part's fields."""
        for key in sorted(values, key=lambda key: key not in CHOOSE):
            self[key] = values[key]

    def wants_keys(self, value: Any) -> ConfigError:
        keys = ", ".join(self)
        return ConfigError(f"config key '{self._path[:-1]}' is a section with keys {keys}; got {shown(value)}")

    def __getitem__(self, name: str) -> Any:
        if name in self._set:
            return self._set[name]
        if isinstance(name, str) and isinstance(entry := self._schema.get(name), Key):
            return self.part if isinstance(self._entry, Part) and name == self._entry.by else entry.default
        raise self._unknown(name, self)

    def __delitem__(self, name: str) -> None:
        if name not in self._set or name in self._schema:
            raise self._unknown(name, self._set.keys() - self._schema.keys())
        del self._set[name]

    def __iter__(self):
        return iter(dict.fromkeys([*self._schema, *self._set]))

    def __len__(self) -> int:
        return len(self._schema.keys() | self._set.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._set or name in self._schema

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:  # called if the class has no attribute of that name
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __dir__(self):
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"Section({to_dict(self)!r})"

    def __reduce__(self):
        return _section, (self._path, self.part, self.explicit)

    def _unknown(self, name: Any, known) -> UnknownKey:
        return UnknownKey(f"unknown config key '{printable(f'{self._path}{name}')}'{key_hint(name, self._path, known)}")

    @property
    def is_open(self) -> bool:
        """Whether keys outside the schema may be set."""
        return not isinstance(self._entry, dict) and not (
            isinstance(self._entry, Part) and self.part in self._entry.own
        )

    def leaf_type(self, name: str) -> Any:
        """The schema's type of a leaf, or None for a section and for keys that only a part knows."""
        entry = self._schema.get(name)
        return entry.type if isinstance(entry, Key) else None


def _section(path: str, part: str, values: Mapping) -> Section:
    """The section at a path such as "data.augment." in which `values` are set."""
    entry: Any = SCHEMA
    for name in path.split(".")[:-1]:
        keys = entry if isinstance(entry, dict) else entry.keys
        entry = keys.get(name, entry.part if isinstance(entry, Several) else Part({}, {}, ""))
    section = Section(entry, path, part)
    section.merge(values)
    return section


def base_config() -> Section:
    """A config with every default, for an experiment file to change."""
    return Section(SCHEMA)


def check(path: str, key: Key, value: Any) -> Any:
    """`value` converted to the key's type; raises ConfigError naming the key, the value and what would be right."""
    value = plain(f"config key '{path}'", value)
    if key.type is Duration:
        parse_duration(value, path)
        return value
    types = typing.get_args(key.type) or (key.type,)
    if float in types and type(value) is int:
        value = as_float(f"config key '{path}'", value)
    if list in types and isinstance(value, tuple):
        types += (tuple,)
    if not any(value is None if t is None or t is type(None) else type(value) is t for t in types):
        names = " or ".join("None" if t in (None, type(None)) else t.__name__ for t in types if t is not list)
        raise ConfigError(
            f"config key '{path}' must be {names}, got {type(value).__name__} {shown(value)} ({key.meaning})"
        )
    if key.choices and value not in (*key.choices, key.default) and not (key.imports and IMPORTED.fullmatch(value)):
        guess, own = did_you_mean(value, key.choices), " or package.module:Attribute" * key.imports
        raise ConfigError(
            f"config key '{path}' must be one of {', '.join(key.choices)}{own}; got {shown(value)}{guess if 'mean' in guess else ''}"
        )
    return value


def to_dict(config: Section) -> dict:
    """The config as plain nested dictionaries, for JSON."""
    return {name: to_dict(value) if isinstance(value, Section) else value for name, value in config.items()}


def from_dict(values: Mapping) -> Section:
    """The config from which `to_dict` made `values`; raises ConfigError if a key is not (or no longer) known."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a config is a mapping from keys to values, got {shown(values)}")
    config = base_config()
    config.merge(values)
    return config


def to_json(config: Section) -> str:
    return json.dumps(to_dict(config), indent=2)


def parse_duration(duration: str, key: str) -> tuple[float, str]:
    """(number, "step" | "epoch" | "example"); empty text is (0, "step"). Raises ConfigError naming the key."""
    if duration == "":
        return 0.0, "step"
    try:
        number, unit = duration.split()
        number, unit = float(number), unit.removesuffix("s")
        if unit not in ("step", "epoch", "example") or not 0 <= number < math.inf:
            raise ValueError
    except (ValueError, AttributeError):
        is_number = re.fullmatch(r"\d{1,9}(\.\d+)?", str(duration))
        hint = f"; did you mean '{duration} epochs'?" if is_number else ""
        raise ConfigError(
            f"config key '{key}' must read 'N steps', 'N epochs' or 'N examples', got {shown(duration)}{hint}"
        ) from None
    return number, unit


def steps_of(duration: str, batch_size: int, num_examples: int, key: str = "duration") -> int:
    """The duration in steps, rounded, at least 1 unless it is zero; an epoch is num_examples / batch_size steps.

    Raises ConfigError naming the key if it is not a duration, or has more steps than JAX counts.
    """
    number, unit = parse_duration(duration, key)
    steps = number * {"step": 1.0, "epoch": num_examples / batch_size, "example": 1 / batch_size}[unit]
    if steps >= limits.STEPS:
        raise ConfigError(f"config key '{key}' must be less than {limits.STEPS:,} steps, got {shown(duration)}")
    return max(round(steps), 1) if steps > 0 else 0


def set_key(config: Section, key: str, value: object) -> None:
    """Sets a dotted key such as "model.width"; a mapping merges into the section there."""
    first, *rest = key.split(".")
    config[first] = functools.reduce(lambda inner, name: {name: inner}, reversed(rest), value)


def leaves(section: Section) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config."""
    return ((key, value) for key, value, _ in typed_leaves(section))


def typed_leaves(section: Section) -> Iterator[tuple[str, Any, Key | None]]:
    """(dotted key, value, the schema's entry) of everything in a config; None for a field that only its part knows."""
    for name, value in section.items():
        if isinstance(value, Section):
            yield from typed_leaves(value)
        else:
            yield f"{section._path}{name}", value, section._schema.get(name)


def derive(config: Section, num_examples: int) -> dict[str, Any]:
    """What follows from the config and the length of an epoch: every duration in steps."""
    if not 1 <= config.batch_size < limits.STEPS:
        raise ConfigError(f"config key 'batch_size' must lie between 1 and {limits.STEPS - 1}, got {config.batch_size}")
    durations = {
        key: steps_of(value, config.batch_size, num_examples, key)
        for key, value, entry in typed_leaves(config)
        if entry and entry.type is Duration
    }
    if durations["duration"] < 1:
        raise ConfigError(f"config key 'duration' must be at least one step, got {config.duration!r}")
    return {"train_examples": num_examples, "steps": durations}
