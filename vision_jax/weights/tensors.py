"""The tensors of a file, whose shapes and dtypes are known before their values are read."""

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vision_jax import files, limits
from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.files import printable

_INTEGERS = [f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)]
_FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
_ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
# The dtypes that weights are stored in; numpy itself has neither bfloat16 nor float8.
DTYPES = {name: np.dtype(name) for name in ["bool", *_INTEGERS, *_FLOATS]} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES
}
CHUNK = 2**22  # bytes to read at a time


class Tensor:
    """A tensor in a file: `shape`, `dtype` (in this machine's byte order) and `read()`.

    Its values are not kept in memory between reads, so that a model can be loaded tensor by tensor.
    cost: bytes of memory that reading takes, if it differs from the size of the values.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray], cost: int | None = None
    ):
        self.shape, self.dtype, self._read, self._cost = shape, dtype, read, cost

    @property
    def cost(self) -> int:
        """Bytes of memory that reading takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if self._cost is None else self._cost

    def read(self) -> np.ndarray:
        """The values; a read-only strided array if the file's tensor is not contiguous.

        Raises ConfigError if the file has changed since it was opened, or is damaged at this place.
        """
        return self._read()

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.read(), dtype=dtype, copy=copy or None)

    def __repr__(self) -> str:
        return f"Tensor({self.shape}, {self.dtype})"


class Tensors(dict[str, Tensor]):
    """{name: Tensor}, in the order of the file, and what else the file says.

    path: the file that was opened.
    metadata: {name: text, number, bool, None or a list of these}; "args.model" is the field `model` of an object `args`.
    on_disk: bytes of the file or files that hold them.
    """

    def __init__(
        self,
        path: pathlib.Path,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any] | None = None,
        on_disk: int = 0,
    ):
        super().__init__(tensors)
        self.path, self.metadata, self.on_disk = path, dict(metadata or {}), on_disk

    def __missing__(self, name: str):
        raise ConfigError(f"the file lacks '{printable(name)}'")

    @property
    def memory(self) -> int:
        """Bytes that their values may take."""
        return limits.MEMORY + 2 * self.on_disk


class File:
    """A file read by ranges and never mapped: mapped pages would count as memory until the last tensor is read.

    Raises ConfigError if it cannot be read, is not a regular file, or is sparse.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        with self.open() as stream:
            self._state = _state(stream)
            self.size, self.on_disk = self._state[0], files.size_on_disk(stream)
        if self.size - self.on_disk > limits.HOLES:
            raise self.error(
                f"a sparse file: it reads as {self.size:,} bytes, of which {self.on_disk:,} are on the disk; "
                "a whole copy (cp --sparse=never) can be read"
            )

    def read(self, start: int, size: int) -> np.ndarray:
        """uint8[size], a fresh array. Raises ConfigError if the file has fewer bytes, or was changed."""
        self._check_range(start, size)
        data = np.empty(size, np.uint8)
        with self.open() as stream:
            stream.seek(start)
            view = memoryview(data)
            while view and (count := stream.readinto(view)):
                view = view[count:]
            self._check_unchanged(stream, not view)
        return data

    def chunks(self, start: int, size: int) -> Iterator[bytes]:
        """The same bytes in parts. Raises ConfigError as `read` does."""
        self._check_range(start, size)
        with self.open() as stream:
            stream.seek(start)
            while size and (chunk := stream.read(min(size, CHUNK))):
                size -= len(chunk)
                yield chunk
            self._check_unchanged(stream, not size)

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"'{printable(self.path, 1000)}': {problem}")

    @contextlib.contextmanager
    def parsing(self, what: str) -> Iterator[None]:
        """Turns whatever a parser raises on a damaged or malicious file into a one-line ConfigError."""
        try:
            yield
        except (ConfigError, RunError, Stopped):
            raise
        except Exception as error:
            raise self.error(f"damaged or cut off: {what} cannot be read ({reason(error)})") from error

    @contextlib.contextmanager
    def open(self):
        try:
            with files.open_regular(self.path) as stream:
                yield stream
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror or error})") from error

    def _check_range(self, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > self.size:
            raise self.error(f"cut off: it ends at byte {self.size}, and byte {start + size} is needed")

    def _check_unchanged(self, stream, is_whole: bool) -> None:
        if not is_whole or _state(stream) != self._state:
            raise self.error("the file was changed while it was read")


def collected(file: File, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, Any] | None = None) -> Tensors:
    """The tensors of a file by name. Raises ConfigError if there are too many, or more than the file can hold."""
    found, cost = {}, 0
    for name, tensor in tensors:
        if name in found:
            raise file.error(f"two tensors have the name '{printable(name)}'")
        if len(name) > limits.TENSOR_NAME:
            raise file.error(f"a tensor's name has {len(name)} characters, more than the {limits.TENSOR_NAME} of any")
        found[name], cost = tensor, cost + tensor.cost
        check_count(file, len(found))
    opened = Tensors(file.path, found, metadata, file.on_disk)
    if cost > opened.memory:
        raise file.error(
            f"reading its tensors takes {cost:,} bytes of memory, more than 512 MiB and twice its {file.on_disk:,} on disk: "
            "they are compressed or share their values; saved anew, uncompressed and each with its own, they can be read"
        )
    return opened


def check_count(file: File, count: int) -> None:
    """Raises ConfigError if a file has more tensors than any checkpoint."""
    if count > limits.TENSORS:
        raise file.error(f"it has more than {limits.TENSORS:,} tensors, as no checkpoint does")


def checked_shape(shape: Iterable, dtype: np.dtype) -> tuple[int, ...]:
    """`shape` as a tuple. Raises ValueError if no array can have it."""
    shape = tuple(shape)
    if len(shape) > limits.TENSOR_SIDES:
        raise ValueError(f"a tensor has {len(shape)} sides; weights have up to {limits.TENSOR_SIDES}")
    if any(not isinstance(side, int) or not 0 <= side < 2**62 for side in shape):
        raise ValueError("a tensor's sides must be whole numbers from 0")
    if math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1) >= 2**62:
        raise ValueError(f"a tensor of the shape {list(shape)} is too large")
    return shape


def reason(error: Exception) -> str:
    """An exception's type and message, fit for an error message of one line."""
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _state(stream) -> tuple[int, int]:
    stat = os.fstat(stream.fileno())
    return stat.st_size, stat.st_mtime_ns
