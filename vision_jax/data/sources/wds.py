"""Pictures with captions from tar shards (img2dataset's "webdataset" format), or a curated selection of them."""

import glob
import itertools
import math
import os
import re
import sys
import zlib
from collections.abc import Sequence

import numpy as np

from vision_jax import limits
from vision_jax.data.shards import selection
from vision_jax.data.shards.index import index_of, read_indexes
from vision_jax.data.shards.pairs import Shard, find_shard, read, read_captions
from vision_jax.errors import ConfigError
from vision_jax.files import printable

_reported: set[str] = set()  # lines on skipped members, already printed by this process


class Wds:
    """The pairs of tar shards, shard after shard, in the order of their pictures; see `vision_jax.data.shards.pairs`.

    Examples have "captions", a tuple of one or more texts, and "label" 0: there are no classes. `skipped` counts what
    was left out, by reason. Rows of the indexes stay on file: a source, and its copy in a worker, is small.

    Args:
        spec: a tar file, or a pattern for them: "PATH/{000..099}.tar" (any number of braces, which may also be lists as
            in "{a,b}"), "PATH/*.tar"; or the .npz file of a selection that `vision_jax.data.curate` wrote.

    Raises:
        ConfigError: a shard is missing, nothing matches, there are no pairs, or a selection does not fit its shards.
    """

    num_classes = 0
    class_names = ()

    def __init__(self, spec: str):
        name = f"wds:{printable(spec)}"
        if not spec:
            raise ConfigError("data source 'wds:' names no shards; expected such as 'wds:PATH/{000..099}.tar'")
        chosen = selection.read(spec) if spec.endswith(selection.SUFFIX) else None
        self._shards = tuple(find_shard(path, name) for path in (chosen["shards"] if chosen else expand(spec)))
        lengths, skipped = read_indexes(self._shards, name)
        if chosen:
            _check_unchanged(spec, chosen, self._shards, lengths)
        self._rows = chosen["rows"] if chosen else None  # uint32[len(self)], rows in their shard's index
        self._starts = chosen["starts"] if chosen else np.cumsum([0, *lengths])
        self.skipped = {reason: count for reason, (count, _) in skipped.items()}
        if not len(self):
            reasons = "".join(
                f"; {count} x {reason}: {printable(names[0])}" for reason, (count, names) in skipped.items()
            )
            raise ConfigError(f"{name} holds no picture with a caption{reasons}")
        for line in (f"{name}: skipped {line}" for line in skipped_lines(skipped)):
            if line not in _reported:
                _reported.add(line)
                print(line, file=sys.stderr, flush=True)

    def fingerprint(self) -> dict[str, str]:
        """The pairs of each shard, its bytes and the checksum of its index; for a selection also the chosen rows."""

        def text(shard: Shard) -> str:
            pairs = index_of(shard).pairs
            return f"{len(pairs)} pairs, {shard.size} bytes ({zlib.crc32(pairs.view(np.uint8)):08x})"

        texts = {shard: text(shard) for shard in dict.fromkeys(self._shards)}
        parts = {os.path.basename(shard.path): texts[shard] for shard in self._shards}
        if len(parts) < len(self._shards):  # shards with the same name in several folders
            parts = {f"{i}: {os.path.basename(shard.path)}": texts[shard] for i, shard in enumerate(self._shards)}
        return parts if self._rows is None else parts | {"selection": f"{zlib.crc32(self._rows):08x}"}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[number]) if self._rows is None else int(self._rows[index])
        shard = self._shards[number]
        pair = index_of(shard).pairs[row]
        return {
            "image": read(shard, int(pair["picture"]), int(pair["picture_size"])),
            "label": 0,
            "name": f"{shard.path}:{pair['key'].decode(errors='replace')}",
            "captions": read_captions(shard, pair),
        }


def skipped_lines(skipped: dict[str, tuple[int, list[str]]]) -> list[str]:
    """A line per reason: how many were left out, and the first names."""
    return [
        f"{count} x {reason}: {', '.join(map(printable, names))}{', ...' if count > len(names) else ''}"
        for reason, (count, names) in sorted(skipped.items())
    ]


def expand(pattern: str) -> list[str]:
    """The paths that a pattern names: braces in the order of shells, then files that match * and ? by name.

    Raises:
        ConfigError: braces that are neither a range {000..099} nor a list {a,b}, or a pattern that matches no file or
            more than `limits.SHARDS`, or paths of more than `limits.SHARD_NAMES` characters in all.
    """
    shown = printable(pattern)
    parts = re.split(r"\{([^{}]*)\}", os.path.expanduser(pattern))
    if any(brace in text for text in parts[::2] for brace in "{}"):
        raise ConfigError(f"the braces of 'wds:{shown}' do not match; expected such as 'PATH/{{000..099}}.tar'")
    choices = [_braces(part, shown) if i % 2 else [part] for i, part in enumerate(parts)]
    count = math.prod(map(len, choices))
    if count > limits.SHARDS:
        raise ConfigError(f"'wds:{shown}' names more than {limits.SHARDS:,} shards")
    if count * sum(max(map(len, texts)) for texts in choices) > max(limits.SHARD_NAMES, len(pattern)):
        raise ConfigError(f"'wds:{shown}' names {count:,} shards by paths that are too long")
    paths = []
    for path in map("".join, itertools.product(*choices)):
        if "*" in path or "?" in path:
            found = sorted(glob.glob(path.replace("[", "[[]")))
            if not found:
                raise ConfigError(f"no file matches 'wds:{printable(path)}'")
            paths += found
            if len(paths) > limits.SHARDS:
                raise ConfigError(f"'wds:{shown}' names more than {limits.SHARDS:,} shards")
        else:
            paths.append(path)
    return paths


def _braces(inside: str, pattern: str) -> Sequence[str]:
    match = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside)
    if match and int(match[1]) <= int(match[2]):
        first, last = map(int, match.groups())
        if last - first >= limits.SHARDS:
            raise ConfigError(f"'wds:{pattern}' names more than {limits.SHARDS:,} shards")
        padded = any(len(end) > 1 and end[0] == "0" for end in match.groups())
        width = max(map(len, match.groups())) if padded else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if match or "," not in inside:
        raise ConfigError(
            f"'{{{printable(inside)}}}' in 'wds:{pattern}' must be a rising range {{000..099}} or a list {{a,b}}"
        )
    return inside.split(",")


def _check_unchanged(path: str, chosen: dict, shards: Sequence[Shard], lengths: Sequence[int]) -> None:
    for shard, size, was, length in zip(shards, chosen["sizes"], chosen["lengths"], lengths, strict=True):
        if (shard.size, length) != (size, was):
            raise ConfigError(
                f"shard '{printable(shard.path)}' is not the one that '{path}' was written for: {was} pairs in {size} bytes then, "
                f"{length} in {shard.size} now; curate again"
            )
