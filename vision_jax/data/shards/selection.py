"""Selections: which pairs of tar shards are kept, in a file that the source `wds:` reads.

The file is NumPy's .npz with `shards` (a JSON list of paths, those in the file's folder or below relative to it), their
`sizes` in bytes and `lengths` in pairs when it was written, and `rows`, the pairs that are kept, as rows of their shard's
index; those of shard i are rows[starts[i]:starts[i + 1]].
"""

import json
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from vision_jax.data.shards.pairs import Shard
from vision_jax.errors import ConfigError

SUFFIX = ".npz"


def write(path: str, shards: Sequence[Shard], lengths: Sequence[int], kept: np.ndarray) -> None:
    """Writes which pairs of shards are kept, for the source wds:PATH.

    Args:
        path: a file name that ends in .npz. Shards in its folder, or below, are noted relative to it.
        lengths: pairs in each shard's index.
        kept: int64[k], rising: numbers of pairs, counted through all the shards.
    """
    folder = os.path.dirname(os.path.abspath(path))
    names = [
        os.path.relpath(shard.path, folder) if shard.path.startswith(folder + os.sep) else shard.path
        for shard in shards
    ]
    bounds = np.cumsum([0, *lengths])
    starts = np.searchsorted(kept, bounds)
    rows = kept - np.repeat(bounds[:-1], np.diff(starts))
    with open(f"{path}.part", "wb") as stream:
        np.savez(
            stream,
            shards=np.frombuffer(json.dumps(names).encode(), np.uint8),
            sizes=np.array([shard.size for shard in shards], np.int64),
            lengths=np.array(lengths, np.int64),
            starts=starts.astype(np.int64),
            rows=rows.astype(np.uint32),
        )
    os.replace(f"{path}.part", path)


def read(path: str) -> dict:
    """shards: list of paths; sizes, lengths: int64[shards]; starts: int64[shards + 1]; rows: uint32[starts[-1]]."""
    path = os.path.expanduser(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in ("shards", "sizes", "lengths", "starts", "rows")}
        names = json.loads(found["shards"].tobytes())
        starts, rows, ends = found["starts"], found["rows"], found["lengths"]
        if len(names) != len(ends) or len(starts) != len(names) + 1 or len(rows) != starts[-1]:
            raise ValueError("its arrays do not fit each other")
        if (rows >= np.repeat(ends, np.diff(starts))).any():
            raise ValueError("it names rows that are not there")
    except OSError as error:
        raise ConfigError(f"selection '{path}' cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"'{path}' is no selection that vision_jax.data.curate wrote: {error}") from None
    folder = os.path.dirname(os.path.abspath(path))
    return {**found, "shards": [os.path.join(folder, name) for name in names]}
