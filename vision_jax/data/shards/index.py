"""Which pairs a tar shard holds, and where: found once, kept in a file.

KEY is a member's name up to its last dot, including folders; the order of members does not matter. Names that start with
a dot, and other suffixes, are skipped. A member that does not clearly form a pair is left out and counted under a
reason, so that a picture never gets the text of another key.

An index is kept next to its shard as SHARD.index, or in ~/.cache/vision_jax/wds, or in the system's temporary folder,
whichever is writable. It is valid for one size and modification time of the shard. The file is a line of JSON, with a
checksum of the rest, and the rows of the array `Index.pairs`.
"""

import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import sys
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vision_jax import limits
from vision_jax.data.shards import tar
from vision_jax.data.shards.pairs import (
    EMPTY_CAPTION,
    LONG_CAPTION,
    NO_CAPTION,
    NOT_TEXT,
    Shard,
    Skip,
    check_unchanged,
    parse_captions,
    read,
)
from vision_jax.errors import ConfigError
from vision_jax.files import allowance, open_regular, parse_json, printable, size_on_disk, whole_file

EMPTY_PICTURE = "empty picture"
NO_PICTURE = "caption without picture"
DUPLICATE = "duplicate key"
LONG_NAME = f"name of more than {limits.MEMBER_NAME_BYTES:,} bytes"
LARGE_PICTURE = f"picture of more than {limits.PICTURE_FILE_BYTES:,} bytes"
_REASONS = {
    EMPTY_PICTURE,
    NO_PICTURE,
    DUPLICATE,
    LONG_NAME,
    LARGE_PICTURE,
    EMPTY_CAPTION,
    LONG_CAPTION,
    NO_CAPTION,
    NOT_TEXT,
}
_REASONS |= {tar.DAMAGED, tar.CUT_OFF, tar.TRAILING, tar.EXTENDED}

_KINDS = {**dict.fromkeys((b"jpg", b"jpeg", b"png", b"webp"), "picture"), b"txt": "txt", b"json": "json"}
_FORMAT = "vision_jax shard index 1"
_NAMED = 5  # names of skipped members that are kept per reason


Skipped = dict[str, tuple[int, list[str]]]  # reason -> (number of pairs or members left out, their first names)


class Index(NamedTuple):
    """pairs: a structured array on file, one row per pair in the order of the pictures: offset and size in bytes of
    "picture" and "caption", whether the caption "is_json", and the "key"."""

    pairs: np.ndarray
    skipped: Skipped


def read_indexes(shards: Sequence[Shard], source: str) -> tuple[list[int], Skipped]:
    """The number of pairs in each shard, and what was left out of all of them.

    Shards without an index are indexed. Raises ConfigError if a shard cannot be read.
    """
    distinct = list(dict.fromkeys(shards))  # a list may name a shard many times
    with ThreadPoolExecutor(8) as pool:
        missing = sum(pool.map(lambda shard: _kept(shard) is None, distinct))
        if missing:
            print(f"{source}: indexing {missing} of {len(distinct)} shards", file=sys.stderr, flush=True)
        try:
            lengths, skipped = zip(*pool.map(lambda shard: _summary(index_of(shard)), distinct), strict=True)
        except OSError as error:
            raise ConfigError(f"{source}: {printable(error, 400)}") from error
    length_of = dict(zip(distinct, lengths, strict=True))
    return [length_of[shard] for shard in shards], total_skipped(skipped)


def _summary(index: Index) -> tuple[int, Skipped]:
    return len(index.pairs), index.skipped


@functools.lru_cache(maxsize=2048)  # a process may have some 65,000 maps of files
def index_of(shard: Shard) -> Index:
    """The index of a shard, made if needed.

    Raises OSError if the shard is unreadable, RunError if it has changed.
    """
    return _kept(shard) or _keep(shard, *_make(shard))


def total_skipped(parts: Iterable[Skipped]) -> Skipped:
    """Combines what several indexes left out."""
    total: Skipped = {}
    for reason, (count, names) in (item for part in parts for item in part.items()):
        counted, named = total.get(reason, (0, []))
        total[reason] = counted + count, (named + names)[:_NAMED]
    return total


def _make(shard: Shard) -> tuple[np.ndarray, Skipped]:
    rows, skipped = [], collections.defaultdict(list)
    for key, found in _members_by_key(shard, skipped).items():
        try:
            rows.append((*_pair(shard, found), key))
        except Skip as error:
            skipped[str(error)].append(key)
    rows.sort()
    named = {
        reason: (len(keys), [f"{shard.path}:{key.decode(errors='replace')}" for key in keys[:_NAMED]])
        for reason, keys in skipped.items()
    }
    return np.array(rows, _dtype(max([len(row[-1]) for row in rows], default=1))), named


def _dtype(key_bytes: int) -> np.dtype:
    offsets = [(name, "<i8") for name in ("picture", "picture_size", "caption", "caption_size")]
    return np.dtype([*offsets, ("is_json", "?"), ("key", f"S{max(key_bytes, 1)}")])


def _members_by_key(shard: Shard, skipped: dict[str, list[bytes]]) -> dict[bytes, list[tuple[str, tar.Member]]]:
    """{key: [(kind, member)]} for all members that belong to pairs; those that cannot be assigned go to `skipped`."""
    keys: dict[bytes, list] = {}
    last, captions = None, 0
    with io.BufferedReader(open_regular(shard.path)) as stream:
        check_unchanged(shard, stream.fileno())
        room = size_on_disk(stream) + limits.HOLES
        for member in tar.members(stream, shard.size):
            key, _, suffix = member.name.removeprefix(b"./").rpartition(b".")
            kind = _KINDS.get(suffix.lower())
            if len(member.name) > limits.MEMBER_NAME_BYTES:
                skipped[LONG_NAME].append(key[:64])
            elif kind and not key.rpartition(b"/")[2].startswith(b"."):
                keys.setdefault(key, []).append((kind, member))
                last = key
                captions += member.size if kind != "picture" and member.size <= limits.CAPTION_BYTES else 0
                if captions > room:
                    raise ConfigError(
                        f"shard '{printable(shard.path)}' is a sparse file: its captions are mostly holes"
                    )
            elif member.problem:
                skipped[member.problem].append(member.name or b"byte %d" % member.offset)
                if member.problem == tar.DAMAGED and last is not None:  # bytes may be missing from the member before
                    keys[last].append(("damage", member))
        check_unchanged(shard, stream.fileno())
    return keys


def _pair(shard: Shard, found: list[tuple[str, tar.Member]]) -> tuple[int, int, int, int, bool]:
    """Offset and size of the picture and of the caption, and whether the caption is JSON. Raises Skip."""
    for _, member in found:
        if member.problem:
            raise Skip(member.problem)
    kinds = dict(found)
    if len(kinds) < len(found):
        raise Skip(DUPLICATE)
    if "picture" not in kinds:
        raise Skip(NO_PICTURE)
    if not kinds["picture"].size:
        raise Skip(EMPTY_PICTURE)
    if kinds["picture"].size > limits.PICTURE_FILE_BYTES:
        raise Skip(LARGE_PICTURE)
    is_json = "txt" not in kinds
    caption = kinds.get("json" if is_json else "txt")
    if caption is None:
        raise Skip(NO_CAPTION)
    if caption.size > limits.CAPTION_BYTES:
        raise Skip(LONG_CAPTION)
    parse_captions(read(shard, caption.offset, caption.size), is_json)
    return kinds["picture"].offset, kinds["picture"].size, caption.offset, caption.size, is_json


def _places(shard: Shard) -> list[pathlib.Path]:
    name = hashlib.sha256(repr(shard).encode()).hexdigest()[:32] + ".index"
    temporary = pathlib.Path(tempfile.gettempdir()) / f"vision_jax_wds_{os.getuid()}"
    return [
        pathlib.Path(shard.path + ".index"),
        pathlib.Path("~/.cache/vision_jax/wds").expanduser() / name,
        temporary / name,
    ]


def _kept(shard: Shard) -> Index | None:
    for path in _places(shard):
        try:
            return _load(path, shard)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
            continue  # absent, outdated or corrupt
    return None


def _load(path: pathlib.Path, shard: Shard) -> Index:
    with io.BufferedReader(open_regular(path)) as stream:
        line = stream.readline(2**20)
        head = parse_json(line)
        size = os.fstat(stream.fileno()).st_size
        if (head["format"], head["size"], head["mtime_ns"]) != (_FORMAT, shard.size, shard.mtime_ns):
            raise ValueError("the index is of another file")
        dtype, count = _dtype(head["key_bytes"]), head["pairs"]
        if size != len(line) + count * dtype.itemsize or size > allowance(stream):
            raise ValueError("the index is not whole")
        pairs = np.memmap(stream, dtype, "r", len(line), (count,)) if count else np.zeros(0, dtype)
    pairs = np.asarray(pairs)
    if zlib.crc32(pairs.view(np.uint8)) != head["crc32"]:
        raise ValueError("the index is corrupt")
    for part, most in (("picture", limits.PICTURE_FILE_BYTES), ("caption", limits.CAPTION_BYTES)):
        offsets, sizes = pairs[part], pairs[f"{part}_size"]
        if not ((sizes > 0) & (sizes <= most) & (offsets >= 0) & (offsets <= shard.size - sizes)).all():
            raise ValueError("the index points out of its shard")
    return Index(pairs, {reason: _skips(reason, *told) for reason, told in head["skipped"].items()})


def _skips(reason: str, number: int, names: list[str]) -> tuple[int, list[str]]:
    """An entry of `Index.skipped` from a file. Raises ValueError or TypeError if `_keep` cannot have written it."""
    is_whole = type(number) is int and 0 < number < 2**63 and 0 < len(names) <= min(number, _NAMED)
    if reason not in _REASONS or not is_whole or not all(isinstance(name, str) for name in names):
        raise ValueError("the index tells of what cannot be")
    return number, list(names)


def _keep(shard: Shard, pairs: np.ndarray, skipped: Skipped) -> Index:
    head = dict(
        format=_FORMAT,
        size=shard.size,
        mtime_ns=shard.mtime_ns,
        pairs=len(pairs),
        key_bytes=pairs.dtype["key"].itemsize,
        crc32=zlib.crc32(pairs.view(np.uint8)),
        skipped=skipped,
    )
    places = _places(shard)
    for path in places:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as stream:
                stream.write(json.dumps(head).encode() + b"\n" + pairs.tobytes())
            return _load(path, shard)
    folders = ", ".join(str(path.parent) for path in places)
    raise ConfigError(f"the index of shard '{printable(shard.path)}' can be written to none of {folders}")
