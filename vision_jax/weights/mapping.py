"""Converts a file's tensors to variables and back: one engine for all families and formats.

A format is a few rules that turn the path of a parameter into the name of a tensor; the model defines which parameters
there are. Paths are those of unrolled layers; `models.stacking` turns them into those of scanned ones.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.weights.tensors import Tensor


class Layout(NamedTuple):
    """How a file's array becomes ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda x: x, lambda x: x),
    "linear": Layout(np.transpose, np.transpose),  # torch: (out, in)
    "conv": Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # torch: OIHW
    "vector": Layout(lambda x: x.reshape(1, 1, -1), lambda x: x.reshape(-1)),  # a token that they keep as (D,)
    "table": Layout(lambda x: x[None], lambda x: x[0]),  # positions that they keep as (N, D)
    "row": Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1)),
    "heads": Layout(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1)),  # a number per head, kept as (heads, 1, 1)
    "scalar": Layout(lambda x: x.reshape(()), lambda x: x),
}


# torch modules' names for their parameters: the last rules of a format built from such modules.
TORCH = ((r"kernel$", "weight"), (r"/scale$", "/weight"), ("/", "."))
_PARTS = ("query", "key", "value")
_PLACE = re.compile(rf"/(?:({'|'.join(_PARTS)})|blocks_(\d+))(?=/)")
NOTHING = "(?!)"  # a pattern that matches no name


class Names(NamedTuple):
    """How a format names and stores parameters.

    rules: (pattern, replacement) pairs as re.sub takes them, applied in order to a path such as "blocks_0/norm1/scale";
        the result is the tensor's name. Parameters with the same name are equal parts of that tensor along axis 0, in
        the order query, key, value, or in the order of their blocks.
    layouts: (pattern, layout) pairs for paths, the first match counts; a key of LAYOUTS, or the family's own Layout.
        Other kernels are "linear" or "conv", and everything else is "same".
    blocks: prefixes of the names of blocks: a tensor there that is no parameter means that the model computes something
        else than ours.
    ignored: a pattern for names known to hold nothing that a model needs, such as position indices.
    """

    rules: tuple[tuple[str, str | Callable[[re.Match], str]], ...]
    layouts: tuple[tuple[str, str | Layout], ...] = ()
    blocks: tuple[str, ...] = ()
    ignored: str = NOTHING

    def of(self, path: str) -> str:
        """The tensor name for a parameter's path; for the beginning of a path, the beginning of the names."""
        for pattern, replacement in self.rules:
            path = re.sub(pattern, replacement, path)
        return path

    def layout(self, path: str, rank: int) -> Layout:
        """The layout of a parameter with `rank` axes."""
        kind = {2: "linear", 4: "conv"}.get(rank, "same") if path.endswith("kernel") else "same"
        kind = next((known for pattern, known in self.layouts if re.search(pattern, path)), kind)
        return LAYOUTS[kind] if isinstance(kind, str) else kind


class Entry(NamedTuple):
    """Where a parameter is stored: in tensor `theirs`, as `layout` says, as part `part[0]` of `part[1]` along axis 0."""

    ours: str  # collection and path, such as "params/head/kernel"
    theirs: str
    layout: Layout
    part: tuple[int, int] = (0, 1)


def entries(names: Names, shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """One entry per shape, by collection and path; entries of one tensor are adjacent.

    Short paths and weights come first, since messages name what comes first.
    """
    found: dict[str, list[str]] = {}
    for ours in sorted(shapes, key=lambda ours: (ours.count("/"), ours.endswith("bias"))):
        found.setdefault(names.of(_path(ours)), []).append(ours)
    table = []
    for theirs, parts in found.items():
        places = {ours: [int(i) if i else _PARTS.index(part) for part, i in _PLACE.findall(ours)] for ours in parts}
        parts.sort(key=places.get)
        if alike := [ours for ours, other in itertools.pairwise(parts) if places[ours] == places[other]]:
            raise ValueError(f"'{alike[0]}' and another parameter are called '{theirs}', in no order")
        for i, ours in enumerate(parts):
            table.append(Entry(ours, theirs, names.layout(_path(ours), len(shapes[ours])), (i, len(parts))))
    return table


class Report(NamedTuple):
    """Names of a file's tensors that were not used, and of those known to be superfluous."""

    unexpected: list[str]
    ignored: list[str]


def import_variables(
    tensors: Mapping[str, Tensor], names: Names, shapes: Mapping, as_array: Callable = np.asarray
) -> tuple[dict, Report]:
    """A model's variables from a file's tensors: float32 arrays in nested dictionaries.

    Args:
        shapes: the variables as `jax.eval_shape` gives them, with unrolled layers.
        as_array: applied to each host array, which may be a view of a larger one, before the next is read.
            jnp.asarray transposes as it copies to a device.

    Raises:
        ConfigError: a tensor is missing, blocks hold more than ours, or a shape differs from the model's; the message
            names one, and how many others there are.
    """
    wanted = {ours: leaf.shape for ours, leaf in flatten_dict(shapes, sep="/").items()}
    table = entries(names, wanted)
    report = _left_over(tensors, names, {entry.theirs for entry in table})
    if missing := [entry.theirs for entry in table if entry.theirs not in tensors]:
        raise ConfigError(f"the file lacks {_some(missing)}{did_you_mean(missing[0], _alike(missing[0], tensors))}")
    for entry in table:
        if "float" not in (dtype := np.dtype(tensors[entry.theirs].dtype)).name:
            raise ConfigError(f"'{entry.theirs}' holds {dtype}, but parameters are floating-point numbers")
    wrong = [
        f"'{entry.theirs}' {list(tensors[entry.theirs].shape)} for '{_path(entry.ours)}' {list(wanted[entry.ours])}"
        for entry in table
        if shape_of(tensors[entry.theirs].shape, entry.layout, entry.part[1]) != wanted[entry.ours]
    ]
    if wrong:
        raise ConfigError(f"shapes do not fit: {_some(wrong)}")
    needed = 4 * sum(map(math.prod, wanted.values()))
    if needed > getattr(tensors, "memory", math.inf):
        raise ConfigError(
            f"its parameters take {needed:,} bytes in float32, more than 512 MiB and twice the file's size on disk: it "
            "repeats values or keeps them in less than 16 bits; save it anew with each value written, as float16 or more"
        )
    variables = {}
    for theirs, parts in itertools.groupby(table, key=lambda entry: entry.theirs):
        array = np.asarray(tensors[theirs].read())  # each is read once, and freed before the next
        for entry in parts:
            index, count = entry.part
            part = array if count == 1 else np.split(array, count)[index]
            variables[entry.ours] = as_array(np.asarray(entry.layout.to_ours(part), np.float32))
    return unflatten_dict(variables, sep="/"), report


def export_variables(variables: Mapping, names: Names) -> dict[str, np.ndarray]:
    """A file's float32 arrays by name, from variables with unrolled layers; `import_variables` reads them back."""
    flat, arrays = flatten_dict(variables, sep="/"), {}
    table = entries(names, {ours: np.shape(value) for ours, value in flat.items()})
    for theirs, parts in itertools.groupby(table, key=lambda entry: entry.theirs):
        found = [entry.layout.to_theirs(np.asarray(flat[entry.ours], np.float32)) for entry in parts]
        arrays[theirs] = np.asarray(np.concatenate(found) if len(found) > 1 else found[0], order="C")
    return arrays


def shape_of(shape: tuple[int, ...], layout: Layout, count: int = 1) -> tuple[int, ...] | None:
    """The shape of our parameter that is one of `count` parts of a tensor of `shape`; None if it cannot be one.

    No values are read.
    """
    if count > 1:
        if not shape or shape[0] % count:
            return None
        shape = (shape[0] // count, *shape[1:])
    try:
        return layout.to_ours(np.broadcast_to(np.float32(0), shape)).shape
    except (ValueError, IndexError):
        return None


def _path(ours: str) -> str:
    """The path without the collection."""
    return ours.partition("/")[2]


def _left_over(tensors: Iterable[str], names: Names, used: set[str]) -> Report:
    rest, ignored = [name for name in tensors if name not in used], re.compile(names.ignored).search
    report = Report([name for name in rest if not ignored(name)], [name for name in rest if ignored(name)])
    if strange := [f"'{name}'" for name in report.unexpected if name.startswith(names.blocks)]:
        raise ConfigError(f"the file is of another architecture: its blocks have {_some(strange)}")
    return report


def _alike(name: str, names: Iterable[str]) -> list[str]:
    """Up to 500 of `names` worth comparing with `name`: of similar length and not long, as long names compare slowly."""
    alike = (other for other in names if abs(len(other) - len(name)) <= 8 and len(other) < 200)
    return list(itertools.islice(alike, 500))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names[0].startswith("'") else f"'{names[0]}'{more}"
