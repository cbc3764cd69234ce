"""Files: those that a stranger may have made are read within bounds, one's own appear whole or not at all."""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from vision_jax import limits
from vision_jax.errors import ConfigError, nearest


class NotRegular(OSError):
    """What lies at a path is no regular file: a pipe or a device, reading which may wait for ever or never end."""

    def __init__(self, kind: str, path: str):
        super().__init__(0, f"it is {kind}, not a regular file", path)


_MOST_EXTENTS = 10_000  # of a file with holes that are added up
_NAMES = 10_000  # of a folder's entries that are compared with a name that is not there
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """The file at `path` (links are followed), open for reading, unbuffered. Never waits.

    Raises OSError whose `strerror` says what is wrong, `NotRegular` among them.
    """
    path = os.fspath(path)
    if "\0" in path:
        raise FileNotFoundError(2, "a name cannot hold a NUL character", path.replace("\0", "\\0"))
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe opens at once instead of waiting
    except UnicodeError:
        raise FileNotFoundError(2, "no file can have such a name", path) from None
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegular(_KINDS.get(stat.S_IFMT(mode), "something else"), path)
        return os.fdopen(number, "rb", buffering=0)
    except BaseException:
        os.close(number)
        raise


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A stream into a file beside `path` that takes its place when the block ends, and vanishes where the block fails.

    At every moment `path` holds either what it held before or all that is new; processes may write it at the same time.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def user_path(name: str | os.PathLike) -> pathlib.Path:
    """The path that a user names, "~" at its start replaced. Raises ConfigError where no file can be there or be seen."""
    path = os.path.expanduser(name)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be one that will be made
    except OSError as error:
        raise ConfigError(f"'{printable(path)}': {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"'{printable(path)}': no file can have such a name") from None
    return pathlib.Path(path)


def nearest_path(name: str | os.PathLike) -> str:
    """The end of a message on a path where nothing is: the path most like it, "" where none is alike."""
    first, *rest = pathlib.Path(os.path.expanduser(name)).parts or ("",)
    found = pathlib.Path(first if os.path.isabs(first) else "")
    for part in rest if os.path.isabs(first) else (first, *rest):
        if not os.path.exists(found / part):
            with contextlib.suppress(OSError), os.scandir(found) as entries:
                names = [entry.name for entry in itertools.islice(entries, _NAMES)]
                part = nearest(part, names, 0.7)
        found = found / part
        if not part or not os.path.exists(found):
            return ""
    return f"; did you mean '{printable(found)}'?"


def size_on_disk(stream: BinaryIO) -> int:
    """Bytes of an open file that are not holes. What a file system compresses, or does not count, is no hole."""
    stat = os.fstat(stream.fileno())
    if 512 * stat.st_blocks >= stat.st_size:
        return stat.st_size
    before, position, size = os.lseek(stream.fileno(), 0, os.SEEK_CUR), 0, 0
    try:
        for _ in range(_MOST_EXTENTS):
            start = os.lseek(stream.fileno(), position, os.SEEK_DATA)
            position = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            size += position - start
        return size
    except OSError as error:
        return size if error.errno == errno.ENXIO else stat.st_size  # no data follow; or holes are unknown
    finally:
        os.lseek(stream.fileno(), before, os.SEEK_SET)


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """The whole content of a regular file of at most `most` bytes. Raises OSError whose `strerror` says what is wrong."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(27, f"it has {size:,} bytes, more than the {most:,} that are read", os.fspath(path))
        return stream.readall()


def allowance(stream: BinaryIO) -> int:
    """Bytes of memory that what an open file holds may take: see `vision_jax.limits`; holes in it do not count."""
    return limits.FILE_MEMORY + 2 * size_on_disk(stream)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry of a folder is one itself, links being followed; those that lead round in a circle are not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_json(path: str | os.PathLike, most: int = limits.JSON_BYTES, pairs: Callable | None = None) -> Any:
    """The value of a JSON file. Raises OSError for the file, ValueError for what it holds."""
    return parse_json(read_regular(path, most), most, pairs)


def read_object(path: str | os.PathLike, what: str) -> dict[str, Any]:
    """The object that a JSON file beside weights or of a run holds. Raises ConfigError that begins with `what`."""
    try:
        content = read_json(path, limits.CONFIG_BYTES)
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{what} cannot be read: {printable(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{what} is no JSON object")
    return content


def parse_json(content: bytes | str, most: int = limits.JSON_BYTES, pairs: Callable | None = None) -> Any:
    """The value of a JSON text of at most `most` bytes; `pairs` as json's object_pairs_hook. Raises ValueError alone."""
    if len(content) > most:
        raise ValueError(f"{len(content):,} bytes of JSON, more than the {most:,} that are read")
    try:
        return json.loads(content, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def printable(name: Any, most: int = 200) -> str:
    """A name from a file as it may be printed: control characters and what no terminal shows escaped, its middle cut."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name)[: 4 * most])
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"
