"""The printed table of parameter groups."""

import re
import textwrap
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from vision_jax.training.param_groups import ParamGroup

WIDTH = 100
_NUMBER = re.compile(r"(?<=_)(\d+)(?=/|$)")


def format_groups(groups: Iterable[ParamGroup]) -> str:
    """The groups as an aligned table of at most 100 columns: one row per decay, learning rate scale and freezing.

    `head/*` stands for every parameter below `head`, `blocks_{0..11}/*/kernel` for every parameter called kernel in these
    blocks, at any depth. A pattern is used only if everything it stands for is in this row.
    """
    rows = defaultdict(list)
    for group in groups:
        rows[group.frozen, not group.decays, group.lr_scale].append(group)
    keys = sorted(rows, key=lambda key: (*key[:2], key[2] if isinstance(key[2], tuple) else (key[2],)))
    paths = summarize_paths({key: [group.path for group in members] for key, members in rows.items()})
    table = [("decay", "lr scale", "parameters", "paths")]
    for key in keys:
        frozen, plain, scale = key
        size = sum(group.size for group in rows[key])
        labels = ("-", "frozen") if frozen else ("no" if plain else "yes", _scale(scale))
        table.append((*labels, f"{size:,}", paths[key]))
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = []
    for decay, scale, size, paths in table:
        start = f"{decay:<{widths[0]}}  {scale:<{widths[1]}}  {size:>{widths[2]}}  "
        lines += _wrapped(paths, start)
    total = sum(group.size for members in rows.values() for group in members)
    trained = sum(group.size for members in rows.values() for group in members if not group.frozen)
    return "\n".join([*lines, f"{trained:,} of {total:,} parameters train"])


def summarize_paths(sets: Mapping[Hashable, Iterable[str]]) -> dict[Hashable, str]:
    """For each set of parameter paths, the coarsest patterns that match its paths and none of another set."""
    owners = defaultdict(set)
    for key, paths in sets.items():
        for path in paths:
            for pattern in _patterns(path):
                owners[pattern].add(key)
    exclusive = {pattern for pattern, keys in owners.items() if len(keys) == 1}
    return {key: _summary(list(paths), exclusive) for key, paths in sets.items()}


def _wrapped(text: str, start: str) -> list[str]:
    indent = " " * len(start)
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False)


def _scale(scale: float | tuple[float, ...]) -> str:
    return f"{scale[0]:.4g}..{scale[-1]:.4g}" if isinstance(scale, tuple) else f"{scale:.4g}"


def _patterns(path: str) -> list[str]:
    """From the coarsest to the path itself: 'a/*', 'a/*/kernel', 'a/b/*', 'a/b/kernel'."""
    *modules, name = path.split("/")
    stems = ["/".join(modules[:depth]) for depth in range(1, len(modules) + 1)]
    coarse = [stem + tail for stem in stems for tail in ("/*", f"/*/{name}")]
    return [*coarse[:-1], path]


def _summary(paths: list[str], exclusive: set[str]) -> str:
    """The coarsest patterns that match these paths and no others, with runs of numbers merged."""
    stands_for = defaultdict(list)
    for path in paths:
        stands_for[next((pattern for pattern in _patterns(path) if pattern in exclusive), path)].append(path)
    return ", ".join(_merge_numbers([p if len(paths) > 1 else paths[0] for p, paths in stands_for.items()]))


def _merge_numbers(patterns: list[str]) -> list[str]:
    """Turns 'blocks_0/x' ... 'blocks_11/x' into 'blocks_{0..11}/x'; of several numbers, merges the last first."""
    rows = [tuple(_NUMBER.split(pattern)) for pattern in patterns]  # text at even indices, numbers at odd ones
    for place in range(max(map(len, rows), default=0) - 2, 0, -2):
        merged = defaultdict(list)
        for row in rows:
            merged[row[:place], row[place + 1 :]] += row[place : place + 1]
        rows = [(*start, *_runs(numbers), *end) for (start, end), numbers in merged.items()]
    return ["".join(row) for row in rows]


def _runs(numbers: list[str]) -> list[str]:
    """An empty list or one number as it is; more as one text, '{0..2,5}'."""
    if len(numbers) < 2:
        return numbers
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ["{" + ",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"]
