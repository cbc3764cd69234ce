"""From a file's tensors to variables and back: one engine for all families and formats.

A table says for one model where every parameter lies in a file. Paths are those of unrolled layers; `models.stacking`
turns them into those of scanned ones.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.weights.tensors import Tensor


class Layout(NamedTuple):
    """How an array of a file becomes ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda x: x, lambda x: x),
    "linear": Layout(np.transpose, np.transpose),  # torch: (out, in)
    "conv": Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # torch: OIHW
    "vector": Layout(lambda x: x.reshape(1, 1, -1), lambda x: x.reshape(-1)),  # a token that they keep as (D,)
    "table": Layout(lambda x: x[None], lambda x: x[0]),  # positions that they keep as (N, D)
    "row": Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1)),
    "heads": Layout(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1)),  # a number a head, kept as (heads, 1, 1)
    "scalar": Layout(lambda x: x.reshape(()), lambda x: x),
}


class Entry(NamedTuple):
    """Where a parameter lies: `theirs` as `layout` says, or its part `part[0]` of `part[1]` equal ones along axis 0.

    layout: a name of LAYOUTS, or a Layout of the family's own. collection: the one of the model's that `ours` is a path in.
    """

    ours: str
    theirs: str
    layout: str | Layout = "same"
    part: tuple[int, int] = (0, 1)
    collection: str = "params"


class Report(NamedTuple):
    """Names of a file's tensors that became no parameter, and those that the table knows to be superfluous."""

    unexpected: list[str]
    ignored: list[str]


def import_variables(
    tensors: Mapping[str, Tensor], table: Iterable[Entry], shapes: Mapping, ignored=(), as_array: Callable = np.asarray
) -> tuple[dict, Report]:
    """A model's variables, float32 arrays in nested dictionaries, from a file's tensors.

    Args:
        table: an entry for each parameter, and for each array of other collections, such as "batch_stats".
        shapes: the variables as `jax.eval_shape` gives them, of unrolled layers.
        ignored: names in the file that are known to hold nothing that a model needs, such as position indices.
        as_array: what becomes of each array of the host, which may be a view of a larger one, before the next is read.
            jnp.asarray transposes as it copies to a device.

    Raises:
        ConfigError: a parameter of the model has no entry, a tensor is missing, or a shape is not the model's; the
            message names it, and how many others there are.
    """
    table, wanted = list(table), flatten_dict(shapes, sep="/")
    if unknown := sorted(wanted.keys() ^ {_path(entry) for entry in table}):
        raise ConfigError(f"the table of names and the model differ in {_some(unknown)}")
    if missing := [entry.theirs for entry in table if entry.theirs not in tensors]:
        raise ConfigError(f"the file lacks {_some(missing)}{did_you_mean(missing[0], _alike(missing[0], tensors))}")
    for entry in table:
        if "float" not in (dtype := np.dtype(tensors[entry.theirs].dtype)).name:
            raise ConfigError(f"'{entry.theirs}' holds {dtype}, but parameters are floating-point numbers")
    wrong = [
        f"'{entry.theirs}' {list(tensors[entry.theirs].shape)} for '{entry.ours}' {list(wanted[_path(entry)].shape)}"
        for entry in table
        if _shape(tensors[entry.theirs].shape, entry) != wanted[_path(entry)].shape
    ]
    if wrong:
        raise ConfigError(f"shapes do not fit: {_some(wrong)}")
    needed = 4 * sum(math.prod(leaf.shape) for leaf in wanted.values())
    if needed > getattr(tensors, "memory", math.inf):
        raise ConfigError(
            f"its parameters take {needed:,} bytes in float32, more than 512 MiB and twice the file's size on disk: it "
            "repeats values or keeps them in less than 16 bits; save it anew with each value written, as float16 or more"
        )
    parts: dict[str, list[Entry]] = {}
    for entry in table:
        parts.setdefault(entry.theirs, []).append(entry)
    variables = {}
    for theirs, entries in parts.items():  # each tensor is read once, and let go before the next
        array = np.asarray(tensors[theirs].read())
        for entry in entries:
            variables[_path(entry)] = as_array(np.asarray(_layout(entry).to_ours(_part(array, entry)), np.float32))
    rest = [name for name in tensors if name not in parts]
    report = Report([name for name in rest if name not in ignored], [name for name in rest if name in ignored])
    return unflatten_dict(variables, sep="/"), report


def export_variables(variables: Mapping, table: Iterable[Entry]) -> dict[str, np.ndarray]:
    """A file's arrays by name, float32, from variables of unrolled layers: what `import_variables` reads back.

    Raises ConfigError where the table has no place for a parameter.
    """
    flat, table, parts = flatten_dict(variables, sep="/"), list(table), {}
    if unknown := sorted(flat.keys() ^ {_path(entry) for entry in table}):
        raise ConfigError(f"the table of names and the parameters differ in {_some(unknown)}")
    for entry in table:
        array = _layout(entry).to_theirs(np.asarray(flat[_path(entry)], np.float32))
        parts.setdefault(entry.theirs, {})[entry.part[0]] = array
    return {
        name: np.asarray(np.concatenate([found[i] for i in sorted(found)]) if len(found) > 1 else found[0], order="C")
        for name, found in parts.items()
    }


def _path(entry: Entry) -> str:
    return f"{entry.collection}/{entry.ours}"


def _layout(entry: Entry) -> Layout:
    return LAYOUTS[entry.layout] if isinstance(entry.layout, str) else entry.layout


def _part(array: np.ndarray, entry: Entry) -> np.ndarray:
    index, count = entry.part
    return array if count == 1 else np.split(array, count)[index]


def _shape(shape: tuple[int, ...], entry: Entry) -> tuple[int, ...] | None:
    """The shape of the entry's part as a parameter of ours, None where it cannot be one; nothing is read."""
    count = entry.part[1]
    if count > 1:
        if not shape or shape[0] % count:
            return None
        shape = (shape[0] // count, *shape[1:])
    try:
        return _layout(entry).to_ours(np.broadcast_to(np.float32(0), shape)).shape
    except (ValueError, IndexError):
        return None


def _alike(name: str, names: Iterable[str]) -> list[str]:
    """A few of `names` that `name` may be a slip of: comparing takes a time that grows with their lengths."""
    alike = (other for other in names if abs(len(other) - len(name)) <= 8 and len(other) < 200)
    return list(itertools.islice(alike, 500))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names[0].startswith("'") else f"'{names[0]}'{more}"
