"""Parts that a config names: built in, or your own as "package.module:Attribute".

A part is a class or a function; its keyword arguments are its fields, which are its section of the config. An object
passed in Python, as to `vj.train`, is a part called "given:NAME" inside `given`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable
from vision_jax.synonyms import field_hint
from vision_jax.values import as_float, shown

GIVEN = "given"
_objects: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("given_objects", default={})  # noqa: B039


@contextlib.contextmanager
def given(objects: Mapping[str, Any]) -> Iterator[None]:
    """Inside, "given:NAME" stands for the object with that name."""
    token = _objects.set({**_objects.get(), **objects})
    try:
        yield
    finally:
        _objects.reset(token)


def find(key: str, name: str, built_in: Mapping[str, str], serves: str = "__call__") -> Any:
    """The part that the config's `key` names: one of `built_in` (name -> "module:Attribute"), or an imported one.

    Raises ConfigError, naming the key, if there is none, if its module cannot be imported, or if it is neither a class
    nor a function and does not have the attribute `serves`.
    """
    if name not in built_in and ":" not in name:
        raise ConfigError(
            f"{key}={name!r} is not known{did_you_mean(name, built_in)}; your own reads 'package.module:Attribute'"
        )
    module, _, attribute = built_in.get(name, name).partition(":")
    if module == GIVEN:
        if attribute not in _objects.get():
            raise ConfigError(
                f"{key}={name!r} is an object that the run was given in Python: give it to vj.train or vj.open_run"
            )
        return _objects.get()[attribute]
    part = import_attribute(f"{key}={name!r}", module, attribute)
    if not callable(part) and not hasattr(part, serves):
        raise ConfigError(f"{key}={name!r} is {shown(part)}, which is no class or function")
    return part


def has_module(name: str) -> bool:
    """Whether a module of that name exists, without importing it; for a dotted name, checks the outermost package."""
    return name in sys.modules or importlib.util.find_spec(name.partition(".")[0]) is not None


def import_attribute(what: str, module: str, attribute: str) -> Any:
    """The object at "module:attribute"; raises ConfigError that begins with `what`."""
    try:
        part = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{what}: importing '{module}' needs the module '{error.name}', which is not there"
            ) from error
        raise ConfigError(
            f"{what}: there is no module '{error.name}' here; install it, or put its folder on PYTHONPATH"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"{what}: importing '{module}' ends in {type(error).__name__}: {printable(error, 300)}"
        ) from error
    for name in attribute.split("."):
        if not hasattr(part, name):
            raise ConfigError(
                f"{what}: '{module}' has no '{attribute}'{did_you_mean(name, [n for n in dir(part) if n[0] != '_'])}"
            )
        part = getattr(part, name)
    return part


def build(key: str, name: str, built_in: Mapping[str, str], fields: Mapping[str, Any], *first: Any) -> Any:
    """The part that the config's `key` names, called with `first` and its own `fields`.

    A built-in part gets only the fields that it reads. Raises ConfigError like `find` and `checked_fields`, and if the
    part raises anything.
    """
    part, what = find(key, name, built_in), f"{key}={name!r}"
    if name in built_in:
        fields = {field: value for field, value in fields.items() if field in fields_of(part)}
    fields = checked_fields(what, part, fields)
    try:
        return part(*first, **fields)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {type(error).__name__}: {printable(error)}") from error


def fields_of(part: Callable) -> dict[str, tuple[Any, Any]]:
    """name -> (type hint, default) for a part's keyword arguments; `dataclasses.MISSING` if there is no default.

    For a class with `**others`, those of its base classes count, too.
    """
    if dataclasses.is_dataclass(part):
        hints = _hints(part)
        return {
            field.name: (hints.get(field.name, Any), field.default)
            for field in dataclasses.fields(part)
            if field.init and field.name not in ("parent", "name")
        }
    found: dict[str, tuple[Any, Any]] = {}
    for function in [base.__init__ for base in part.__mro__[:-1]] if inspect.isclass(part) else [part]:
        hints, parameters = _hints(function), inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY or (
                parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty
            ):
                default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
                found.setdefault(parameter.name, (hints.get(parameter.name, Any), default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def checked_fields(what: str, part: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` converted for the part's fields: lists to tuples, an int to a float if the hint asks for one.

    Raises ConfigError, which begins with `what`, for a name that is not a field, naming the nearest; for a value of
    another type; and for a missing field.
    """
    known = fields_of(part)
    for name in values:
        if name not in known:
            raise ConfigError(f"{what} has no field '{name}'{field_hint(name, known)}")
    missing = [name for name, (_, default) in known.items() if default is dataclasses.MISSING and name not in values]
    if missing and not dataclasses.is_dataclass(part):
        raise ConfigError(f"{what} needs its field '{missing[0]}'")
    return {name: checked(f"{what}: field '{name}'", known[name][0], frozen(value)) for name, value in values.items()}


def checked(what: str, hint: Any, value: Any) -> Any:
    """`value`, an int as a float if `hint` asks for one; raises ConfigError if it has none of the hinted types."""
    if hint is Any:
        return value
    hints = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = {typing.get_origin(kind) or kind: typing.get_args(kind) for kind in hints}
    if float in kinds and int not in kinds and type(value) is int:
        value = as_float(what, value)
    if type(value) not in kinds and not (Mapping in kinds and isinstance(value, Mapping)):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{what} must be {names}, got {type(value).__name__} {shown(value)}")
    return _checked_items(what, kinds[tuple], value) if type(value) is tuple and kinds[tuple] else value


def _checked_items(what: str, kinds: tuple, value: tuple) -> tuple:
    """A tuple checked against `tuple[int, ...]` or `tuple[int, int]`, whose arguments are `kinds`."""
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{what} takes {len(kinds)} numbers, got {shown(value)}")
    return tuple([checked(what, kind, item) for kind, item in zip(kinds, value, strict=True)])


def frozen(value: Any) -> Any:
    """Lists converted to tuples at every level."""
    if isinstance(value, Mapping):
        return {name: frozen(item) for name, item in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


@functools.cache
def _hints(part: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(part)
    except Exception:  # for names that only a type checker knows: such a part is not checked
        return {}
