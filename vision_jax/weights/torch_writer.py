"""Writes PyTorch's zip files without torch, as torch.save has since 1.6: a pickle, and one member per storage.

Layout: torch/serialization.py (_save) and caffe2/serialize/inline_container.cc (the alignment of members).
"""

import math
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from vision_jax.errors import ConfigError
from vision_jax.files import printable
from vision_jax.weights.tensors import DTYPES
from vision_jax.weights.torch_objects import STORAGES
from vision_jax.weights.writing import dtype_and_shape, values_as_bytes, weights_file
from vision_jax.weights.zip_archive import LOCAL_HEADER

_STORAGES = {DTYPES[dtype]: name for name, dtype in STORAGES.items() if dtype}
_ALIGNMENT = 64  # bytes; torch's kFieldAlignment, so that tensors in a mapped file can be used in place
_PADDING = b"FB"  # the id of torch's extra field for padding
_LARGE = 20  # bytes of the extra field with the size of a large member (APPNOTE.TXT, 4.5.3)


def write_torch(path, tensors: Mapping[str, Any]) -> None:
    """Writes what torch.save writes for a dict of tensors, from arrays or anything else with `shape` and `dtype`.

    Values are fetched one tensor at a time, as they are written, and `torch.load(path)` gives the dict back.
    The file appears whole or not at all. Raises ConfigError for a dtype that torch has no storage for, such as uint32,
    and if the file cannot be written.
    """
    path = pathlib.Path(path)
    for name, tensor in tensors.items():
        if (dtype := dtype_and_shape(tensor)[0]) not in _STORAGES:
            known = ", ".join(map(str, _STORAGES))
            raise ConfigError(
                f"'{path}': torch has no storage for '{printable(name)}' of dtype {dtype}, only for {known}"
            )
    with weights_file(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        _add(archive, stream, "data.pkl", _pickled(tensors))
        _add(archive, stream, "byteorder", b"little")
        for key, (name, tensor) in enumerate(tensors.items()):
            _add(archive, stream, f"data/{key}", values_as_bytes(name, tensor))
        _add(archive, stream, "version", b"3\n")


def _add(archive: zipfile.ZipFile, stream: BinaryIO, name: str, data: bytes | np.ndarray) -> None:
    """Adds an uncompressed member whose data begins at a multiple of the alignment."""
    info = zipfile.ZipInfo(f"archive/{name}")
    is_large = len(data) > zipfile.ZIP64_LIMIT
    start = stream.tell() + LOCAL_HEADER + len(info.filename) + is_large * _LARGE + len(_PADDING) + 2
    size = -start % _ALIGNMENT
    info.extra = _PADDING + size.to_bytes(2, "little") + b"Z" * size
    with archive.open(info, "w", force_zip64=is_large) as member:
        member.write(data)


def _pickled(tensors: Mapping[str, Any]) -> bytes:
    """A pickle (protocol 2) of {name: tensor}; the tensors' storages are named "0", "1" and so on."""
    items = [
        _opcodes(str(name)) + _tensor(str(key), *dtype_and_shape(tensor))
        for key, (name, tensor) in enumerate(tensors.items())
    ]
    return b"".join([pickle.PROTO, b"\2", pickle.EMPTY_DICT, pickle.MARK, *items, pickle.SETITEMS, pickle.STOP])


def _tensor(key: str, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The pickle of a contiguous tensor that fills the storage `key`."""
    storage = _tuple("storage", _global(_STORAGES[dtype]), key, "cpu", math.prod(shape)) + pickle.BINPERSID
    strides = tuple(math.prod(max(side, 1) for side in shape[axis + 1 :]) for axis in range(len(shape)))
    hooks = _call("collections.OrderedDict")
    return _call("torch._utils._rebuild_tensor_v2", storage, 0, shape, strides, False, hooks)


def _call(function: str, *arguments: Any) -> bytes:
    return _global(function) + _tuple(*arguments) + pickle.REDUCE


def _global(name: str) -> bytes:
    return pickle.GLOBAL + "{}\n{}\n".format(*name.rsplit(".", 1)).encode()


def _tuple(*items: Any) -> bytes:
    return pickle.MARK + b"".join(map(_opcodes, items)) + pickle.TUPLE


def _opcodes(item: Any) -> bytes:
    """The pickle of a text, number or tuple of numbers, without PROTO and STOP. bytes are opcodes already."""
    return item if isinstance(item, bytes) else pickle.dumps(item, protocol=2)[2:-1]
