"""What the writers of weights share: a file appears whole or not at all, and its values are little-endian."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.files import whole_file


@contextlib.contextmanager
def weights_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """`whole_file`, but raises ConfigError if the file cannot be written."""
    try:
        with whole_file(path) as stream:
            yield stream
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written ({error.strerror or error})") from error


def dtype_and_shape(tensor: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """dtype, in this machine's byte order, and shape of anything that has both; its values are not fetched."""
    return np.dtype(tensor.dtype).newbyteorder("="), tuple(int(side) for side in tensor.shape)


def values_as_bytes(name: str, tensor: Any) -> np.ndarray:
    """The values as uint8, row by row, little-endian. Raises ValueError if they do not match shape and dtype."""
    data = np.ascontiguousarray(tensor).reshape(-1)
    data = data.astype(data.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    dtype, shape = dtype_and_shape(tensor)
    if data.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"'{name}' has {data.size} bytes, but is said to be {dtype}{list(shape)}")
    return data
