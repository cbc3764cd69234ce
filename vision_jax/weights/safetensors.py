"""safetensors: the length of a JSON header in 8 bytes, the header, then the tensors' bytes in a row.

Format: https://github.com/huggingface/safetensors#format.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.files import printable
from vision_jax.weights.tensors import DTYPES, File, Tensor, Tensors, check_count, checked_shape, collected
from vision_jax.weights.writing import dtype_and_shape, values_as_bytes, weights_file

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit, used to recognise a file
_METADATA = "__metadata__"
_DTYPES = {
    "BOOL": "bool",
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)},
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_NAMES = {DTYPES[name]: code for code, name in _DTYPES.items()}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with `head`, 9 bytes or more, is meant to be one."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def open_safetensors(file: File) -> Tensors:
    """The file's tensors. Raises ConfigError if the header is wrong or does not match the file's length."""
    length = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if length > limits.SAFETENSORS_HEADER:
        raise file.error(f"its header has {length:,} bytes, more than the {limits.SAFETENSORS_HEADER:,} that are read")
    with file.parsing("the header"):
        header = json.loads(file.read(8, length).tobytes().decode(), object_pairs_hook=_unique)
        metadata = header.pop(_METADATA, {})
        check_count(file, len(header))
        found = {name: _entry(entry) for name, entry in header.items()}
        end = 0
        for name, (_, _, start, size) in sorted(found.items(), key=lambda item: item[1][2:]):
            if start != end:
                raise ValueError(f"'{printable(name)}' begins at byte {start} of the data, not at {end}")
            end += size
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"{_METADATA} must be texts by name")
    if 8 + length + end != file.size:
        problem = "cut off" if 8 + length + end > file.size else "damaged"
        raise file.error(f"{problem}: it has {file.size} bytes, but by its header {8 + length + end}")
    return collected(file, ((name, _tensor(file, 8 + length, *entry)) for name, entry in found.items()), metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return unique


def _entry(entry: dict) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype, start and size in bytes of a tensor."""
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if any(type(number) is not int or not 0 <= number < 2**62 for number in (*shape, start, end)):
        raise ValueError("shapes and offsets must be whole numbers from 0")
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {printable(entry['dtype'])} is not known")
    dtype = DTYPES[_DTYPES[entry["dtype"]]]
    shape = checked_shape(shape, dtype)
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{dtype}{list(shape)} has not {end - start} bytes")
    return shape, dtype, start, end - start


def _tensor(file: File, base: int, shape: tuple[int, ...], dtype: np.dtype, start: int, size: int) -> Tensor:
    return Tensor(shape, dtype, lambda: file.read(base + start, size).view(dtype).reshape(shape))


def write_safetensors(path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays, or anything with `shape` and `dtype` that numpy can convert, one after the other.

    The file appears whole or not at all. Raises ConfigError for a dtype that the format does not support, for metadata
    that are not strings, and if the file cannot be written.
    """
    path, metadata = pathlib.Path(path), dict(metadata or {})
    if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
        raise ConfigError(f"'{path}': metadata of safetensors must be texts by name, got {metadata}")
    # Largest items first, as in the safetensors package, so that every tensor is aligned to its item size.
    names = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    header, end = {_METADATA: metadata} if metadata else {}, 0
    for name in names:
        dtype, shape = dtype_and_shape(tensors[name])
        if dtype not in _NAMES or name == _METADATA:
            raise ConfigError(f"'{path}': safetensors has no place for '{printable(name)}' of dtype {dtype}")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with weights_file(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            stream.write(values_as_bytes(name, tensors[name]))
