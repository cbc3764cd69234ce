"""The tensors of a file, known by shape and dtype before they are read."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vision_jax.errors import ConfigError

_INTEGERS = [f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)]
_FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
_ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
# The dtypes that weights are kept in; numpy itself has neither bfloat16 nor float8.
DTYPES = {name: np.dtype(name) for name in ["bool", *_INTEGERS, *_FLOATS]} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES
}


class Tensor:
    """A tensor of a file: `shape`, `dtype` (in this machine's byte order) and `read()`.

    Nothing of its values is kept in memory between reads, so that a model can be loaded tensor by tensor.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray]):
        self.shape, self.dtype, self._read = shape, dtype, read

    def read(self) -> np.ndarray:
        """The values; a read-only array with strides where the file's tensor is not contiguous.

        Raises ConfigError where the file has changed since it was opened, or is damaged at this place.
        """
        return self._read()

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.read(), dtype=dtype, copy=copy or None)

    def __repr__(self) -> str:
        return f"Tensor({self.shape}, {self.dtype})"


class Tensors(dict[str, Tensor]):
    """name -> Tensor, in the order of the file, and what else the file says.

    path: the file that was opened.
    metadata: name -> text, number, bool, None or a list of such; "args.model" is the field `model` of an object `args`.
    """

    def __init__(self, path: pathlib.Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None):
        super().__init__(tensors)
        self.path, self.metadata = path, dict(metadata or {})


class File:
    """A file that is read by ranges, none of it mapped: mapped pages would count as memory until the last tensor is read.

    Raises ConfigError where it cannot be read.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        with self._open() as stream:
            self._state = _state(stream)
        self.size = self._state[0]

    def read(self, start: int, size: int) -> np.ndarray:
        """uint8[size], the caller's own. Raises ConfigError where the file has not so many bytes, or was changed."""
        if start < 0 or size < 0 or start + size > self.size:
            raise self.error(f"cut off: it ends at byte {self.size}, and byte {start + size} is needed")
        data = np.empty(size, np.uint8)
        with self._open() as stream:
            stream.seek(start)
            view = memoryview(data)
            while view and (count := stream.readinto(view)):
                view = view[count:]
            if view or _state(stream) != self._state:
                raise self.error("the file was changed while it was read")
        return data

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"'{self.path}': {problem}")

    @contextlib.contextmanager
    def parsing(self, what: str) -> Iterator[None]:
        """Turns whatever a damaged or malicious file makes a parser raise into a ConfigError of one line."""
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise self.error(f"damaged or cut off: {what} cannot be read ({shown(reason)})") from error

    @contextlib.contextmanager
    def _open(self):
        try:
            with open(self.path, "rb", buffering=0) as stream:
                yield stream
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror or error})") from error


def _state(stream) -> tuple[int, int]:
    stat = os.fstat(stream.fileno())
    return stat.st_size, stat.st_mtime_ns


def shown(text: str) -> str:
    """`text`, which a file may have chosen, as a part of a message of one line."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:200]}..."
