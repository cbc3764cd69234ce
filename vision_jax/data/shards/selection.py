"""Selections: which pairs of tar shards to keep, in a file that the source `wds:` reads.

The file is NumPy's .npz with `shards` (a JSON list of paths, relative to the file's folder if in it or below), their
`sizes` in bytes and `lengths` in pairs when it was written, and `rows`, the kept pairs, as rows of their shard's index;
those of shard i are rows[starts[i]:starts[i + 1]].
"""

import io
import json
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from vision_jax import limits
from vision_jax.data.shards.pairs import Shard
from vision_jax.errors import ConfigError
from vision_jax.files import allowance, open_regular, parse_json, printable, whole_file

SUFFIX = ".npz"
_DTYPES = {"shards": "|u1", "sizes": "<i8", "lengths": "<i8", "starts": "<i8", "rows": "<u4"}
_HEADER = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': False, 'shape': \((\d{1,15}),\), \} *\n"
)  # as NumPy writes it
_PART = limits.SELECTION_PART_BYTES // 2  # bytes of an array to read at once


def write(path: str, shards: Sequence[Shard], lengths: Sequence[int], kept: np.ndarray) -> None:
    """Writes which pairs of the shards are kept, for the source wds:PATH.

    Args:
        path: a file name that ends in .npz. Shards in its folder, or below, are stored relative to it.
        lengths: pairs in each shard's index.
        kept: int64[k], ascending: numbers of the kept pairs, counted across all shards.
    """
    folder = os.path.dirname(os.path.abspath(path))
    names = [
        os.path.relpath(shard.path, folder) if shard.path.startswith(folder + os.sep) else shard.path
        for shard in shards
    ]
    bounds = np.cumsum([0, *lengths])
    starts = np.searchsorted(kept, bounds)
    rows = kept - np.repeat(bounds[:-1], np.diff(starts))
    with whole_file(pathlib.Path(path)) as stream:
        np.savez(
            stream,
            shards=np.frombuffer(json.dumps(names).encode(), np.uint8),
            sizes=np.array([shard.size for shard in shards], np.int64),
            lengths=np.array(lengths, np.int64),
            starts=starts.astype(np.int64),
            rows=rows.astype(np.uint32),
        )


def read(path: str) -> dict:
    """shards: list of paths; sizes, lengths: int64[shards]; starts: int64[shards + 1]; rows: uint32[starts[-1]].

    Raises ConfigError if the file cannot be read or is not a selection.
    """
    path = os.path.expanduser(path)
    shown = printable(path)
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > allowance(stream):
                raise ValueError("it is mostly holes")
            found = _arrays(stream)
        names = parse_json(found["shards"][: limits.JSON_BYTES + 1].tobytes())
        _check(names, found)
    except OSError as error:
        raise ConfigError(f"selection '{shown}' cannot be read: {error.strerror or error}") from None
    except (
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        reason = printable(error)
        raise ConfigError(f"'{shown}' is no selection that vision_jax.data.curate wrote: {reason}") from None
    folder = os.path.dirname(os.path.abspath(path))
    return {**found, "shards": [os.path.join(folder, name) for name in names]}


class _Parts(io.FileIO):
    """A file with a limit on how much is read at once: nothing else bounds the list of a zip file's members."""

    def read(self, size: int = -1) -> bytes:
        most = limits.SELECTION_PART_BYTES
        if size > most or len(data := super().read(size if size >= 0 else most + 1)) > most:
            raise zipfile.BadZipFile("its list of members is too long")
        return data


def _arrays(stream: BinaryIO) -> dict[str, np.ndarray]:
    with _Parts(stream.fileno(), closefd=False) as parts, zipfile.ZipFile(parts) as archive:
        if sum(archive.getinfo(f"{name}.npy").file_size for name in _DTYPES) > os.fstat(stream.fileno()).st_size:
            raise ValueError("its arrays are larger than the file")
        return {name: _array(archive, f"{name}.npy", dtype) for name, dtype in _DTYPES.items()}


def _array(archive: zipfile.ZipFile, name: str, dtype: str) -> np.ndarray:
    """One array as `write` stores it: uncompressed, so that it takes no more memory than on file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"its '{name}' is compressed")
    with archive.open(info) as member:
        start = member.read(10)
        header = _HEADER.fullmatch(member.read(int.from_bytes(start[8:], "little")))
        size = info.file_size - member.tell()
        if start[:8] != b"\x93NUMPY\x01\x00" or header is None or header[1].decode() != dtype:
            raise ValueError(f"its '{name}' is not one row of {dtype}")
        if int(header[2]) * np.dtype(dtype).itemsize != size:
            raise ValueError(f"its '{name}' has {size:,} bytes where it says {header[2].decode()} numbers")
        content = bytearray(size)
        view = memoryview(content)
        for start in range(0, size, _PART):
            part = member.read(min(_PART, size - start))
            view[start : start + len(part)] = part
        if member.read(1):  # which also compares the checksum
            raise ValueError(f"its '{name}' does not end")
    return np.frombuffer(content, dtype)


def _check(names, found: dict[str, np.ndarray]) -> None:
    starts, rows, ends = found["starts"], found["rows"], found["lengths"]
    if not isinstance(names, list) or len(names) > limits.SHARDS or not all(isinstance(name, str) for name in names):
        raise ValueError("its shards are no list of paths")
    fits = len(names) == len(ends) == len(found["sizes"]) == len(starts) - 1
    if not fits or starts[0] != 0 or starts[-1] != len(rows) or (starts[1:] < starts[:-1]).any():
        raise ValueError("its arrays do not fit each other")
    for start, stop, end in zip(starts, starts[1:], ends, strict=False):
        if start < stop and rows[start:stop].max() >= end:
            raise ValueError("it names rows that are not there")
