"""Files: untrusted ones are read within limits, our own are written completely or not at all."""

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
    """Something other than a regular file, such as a pipe or a device; reading it may block forever or never end."""

    def __init__(self, kind: str, path: str):
        super().__init__(0, f"it is {kind}, not a regular file", path)


_MOST_EXTENTS = 10_000  # of a file with holes that are added up
_NAMES = 10_000  # entries of a folder that are compared with a missing name
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """The file at `path` (links are followed), open for reading, unbuffered. Never blocks.

    Raises OSError, possibly `NotRegular`, whose `strerror` says what is wrong.
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
    """A stream into a file beside `path` that replaces it when the block ends, and disappears if the block fails.

    At every moment `path` holds either its old content or all of the new; several processes may write it at the same time.
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
    """The path that a user gives, with "~" at its start expanded. Raises ConfigError if no file can exist or be seen."""
    path = os.path.expanduser(name)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be a path yet to be created
    except OSError as error:
        raise ConfigError(f"'{printable(path)}': {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"'{printable(path)}': no file can have such a name") from None
    return pathlib.Path(path)


def nearest_path(name: str | os.PathLike) -> str:
    """The end of a message about a path that does not exist: the most similar path, "" if none is similar."""
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
    """Bytes of an open file outside its holes. What the file system compresses, or does not count, is not a hole."""
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
        return size if error.errno == errno.ENXIO else stat.st_size  # no more data; or holes are not supported
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
    """Bytes of memory that the content of an open file may take: see `vision_jax.limits`; holes in it do not count."""
    return limits.FILE_MEMORY + 2 * size_on_disk(stream)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether a folder's entry is itself a folder; follows links, except circular ones."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_json(path: str | os.PathLike, most: int = limits.JSON_BYTES, pairs: Callable | None = None) -> Any:
    """The value of a JSON file. Raises OSError for the file, ValueError for its content."""
    return parse_json(read_regular(path, most), most, pairs)


def read_object(path: str | os.PathLike, what: str) -> dict[str, Any]:
    """The object in a JSON file of a run or beside weights. Raises ConfigError that begins with `what`."""
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
    """The value of a JSON text of at most `most` bytes; `pairs` as json's object_pairs_hook. Raises only ValueError."""
    if len(content) > most:
        raise ValueError(f"{len(content):,} bytes of JSON, more than the {most:,} that are read")
    try:
        return json.loads(content, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def printable(name: Any, most: int = 200) -> str:
    """A name from a file, safe to print: control and undisplayable characters escaped, its middle cut out if too long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name)[: 4 * most])
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"
