"""Tar shards of pictures with captions, as img2dataset writes them: random access to their bytes and captions.

A pair is a picture KEY.jpg, .jpeg, .png or .webp and, in the same shard, the text KEY.txt (UTF-8, one caption however
many lines it has) or, if there is none, the "caption" in KEY.json: a text, or a list of texts, each a caption.
"""

import functools
import os
import stat
from typing import NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError, RunError
from vision_jax.files import open_regular, parse_json, printable

NO_CAPTION = "no caption"
LONG_CAPTION = f"caption of more than {limits.CAPTION_BYTES:,} bytes"
EMPTY_CAPTION = "empty caption"
NOT_TEXT = "caption is not text"


class Shard(NamedTuple):
    """A tar file as it was when it was first looked at."""

    path: str
    size: int
    mtime_ns: int


class Skip(ValueError):
    """Bytes that form no pair; they are counted under the message, which is the reason."""


def find_shard(path: str, source: str) -> Shard:
    """The shard at `path`. Raises ConfigError naming it and the `source` that needs it if it is missing or no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # the latter: a NUL in its name
        reason = getattr(error, "strerror", error)
        raise ConfigError(f"{source}: shard '{printable(path)}' cannot be read: {reason}") from None
    if stat.S_ISDIR(status.st_mode):
        shown = printable(path)
        raise ConfigError(f"{source}: '{shown}' is a folder; did you mean 'wds:{os.path.join(shown, '*.tar')}'?")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{source}: shard '{printable(path)}' is a pipe or device, not a regular file")
    return Shard(os.path.abspath(path), status.st_size, status.st_mtime_ns)


def read(shard: Shard, offset: int, size: int) -> bytes:
    """Bytes of a shard, from any thread. Raises RunError if it cannot be read, or has changed since it was found."""
    try:
        file = _open(shard)  # keep a reference while reading: another thread may drop it from the cache
        check_unchanged(shard, file.number)
        data = os.pread(file.number, size, offset)
        while len(data) < size:  # after a signal, or Linux's limit of 2 GB per call
            more = os.pread(file.number, size - len(data), offset + len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise RunError(f"shard '{printable(shard.path)}' cannot be read: {error.strerror}") from None
    if len(data) < size:
        raise RunError(f"shard '{printable(shard.path)}' ends at byte {offset + len(data)}, before {offset + size}")
    return data


def check_unchanged(shard: Shard, number: int) -> None:
    """Raises RunError if the open file with that descriptor is not, or no longer, what the shard was."""
    status = os.fstat(number)
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise RunError(f"shard '{printable(shard.path)}' has changed since this program found it")


class _File:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: str):
        self._stream = open_regular(path)
        self.number = self._stream.fileno()

    def __del__(self):
        if hasattr(self, "_stream"):
            self._stream.close()


@functools.lru_cache(maxsize=128)  # of the 1,024 files that a process may commonly have open
def _open(shard: Shard) -> _File:
    return _File(shard.path)


def read_captions(shard: Shard, pair) -> tuple[str, ...]:
    """The captions for a row of the shard's index. Raises RunError if the shard has changed."""
    try:
        return parse_captions(read(shard, int(pair["caption"]), int(pair["caption_size"])), bool(pair["is_json"]))
    except Skip as error:
        raise RunError(f"shard '{printable(shard.path)}' has changed since it was indexed: {error}") from None


def parse_captions(data: bytes, is_json: bool) -> tuple[str, ...]:
    """The captions in a text or JSON member: stripped, none of them empty. Raises Skip."""
    try:
        text = data.decode("utf-8-sig")
        texts = _caption_of(parse_json(text)) if is_json and text.strip() else [text]
        captions = tuple(stripped for text in texts if (stripped := text.strip()))
        "".join(captions).encode()  # JSON can escape halves of characters
    except Skip:
        raise
    except ValueError:  # from the decoders
        raise Skip(NOT_TEXT) from None
    if not captions:
        raise Skip(EMPTY_CAPTION)
    if any("\0" in caption for caption in captions):
        raise Skip(NOT_TEXT)
    return captions


def _caption_of(record) -> list[str]:
    if not isinstance(record, dict):
        raise Skip(NOT_TEXT)
    texts = record.get("caption")
    texts = texts if isinstance(texts, list) else [texts]
    if texts in ([], [None]):
        raise Skip(NO_CAPTION)
    if not all(isinstance(text, str) for text in texts):
        raise Skip(NOT_TEXT)
    return texts
