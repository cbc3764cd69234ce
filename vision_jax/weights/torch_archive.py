"""Reads PyTorch's files without torch: zip archives (since 1.6), TorchScript archives, and older rows of pickles."""

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vision_jax import limits
from vision_jax.files import printable
from vision_jax.weights.tensors import File, Tensor, Tensors, collected
from vision_jax.weights.torch_objects import Record, StridedTensor
from vision_jax.weights.torch_pickle import load
from vision_jax.weights.zip_archive import ZipArchive

_PICKLE = "data.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL = 1001
_LONGEST_LIST = 1000  # items; longer lists are not kept as metadata


class Bytes(NamedTuple):
    """The bytes of a storage."""

    read: Callable[[int, int], np.ndarray]  # (start, size) -> uint8[size]
    cost: Callable[[int], int]  # size -> bytes of memory that reading them takes


def is_torch_archive(archive: ZipArchive) -> bool:
    return _prefix(archive) is not None


def open_torch_archive(archive: ZipArchive) -> Tensors:
    """The tensors of a checkpoint or a TorchScript module, by names joined with dots. Raises ConfigError."""
    file, prefix = archive.file, _prefix(archive)
    is_script = f"{prefix}constants.pkl" in archive.sizes
    order = f"{prefix}byteorder"
    if order in archive.sizes and archive.head(order, 8) != b"little":
        raise file.error("it was written on a big-endian machine; load it there and save it as safetensors")
    pickle = f"{prefix}{_PICKLE}"
    if archive.sizes[pickle] > limits.PICKLE_BYTES:
        raise file.error(f"its pickle has {archive.sizes[pickle]:,} bytes, more than the {limits.PICKLE_BYTES:,} read")
    root, storages = load(archive.read(pickle).tobytes(), file, is_script)
    found = {}
    for key, storage in storages.items():
        name = f"{prefix}data/{key}"
        size = archive.sizes.get(name)
        if size is None or size < storage.size:
            raise file.error(
                f"damaged: storage '{printable(name)}' has {size or 0} bytes, but needs {printable(storage.size)}"
            )
        found[key] = Bytes(functools.partial(archive.read, name), functools.partial(archive.cost, name))
    return _tensors(file, root, found)


def _prefix(archive: ZipArchive) -> str | None:
    """The prefix of every member's name: the file's name when it was written, or "archive/"."""
    names = [name for name in archive.sizes if name == _PICKLE or name.endswith(f"/{_PICKLE}")]
    shortest = min(names, key=len, default=None)
    return None if shortest is None else shortest.removesuffix(_PICKLE)


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts with `head`, 32 bytes or so, was written by torch before 1.6."""
    return head[:1] == b"\x80" and _MAGIC.to_bytes(10, "little") in head


def open_legacy(file: File) -> Tensors:
    """Reads pickles of magic number, version, system, checkpoint and storage keys; then each key's length and bytes."""
    stream = io.BytesIO(file.read(0, min(file.size, limits.PICKLE_BYTES)).tobytes())
    with file.parsing("the file"):
        (magic, _), (version, _), (system, _) = (load(stream, file, steps=100) for _ in range(3))
        if magic != _MAGIC or version != _PROTOCOL or system["little_endian"] is not True:
            raise file.error("it is of a version or of a machine whose files are not read")
        (root, storages), (keys, _) = load(stream, file), load(stream, file)
    position, starts = stream.tell(), {}
    with file.parsing("the list of storages"):
        for key in keys:
            count, storage = int.from_bytes(file.read(position, 8).tobytes(), "little"), storages[key]
            if key in starts or count * (storage.dtype.itemsize if storage.dtype else 1) != storage.size:
                raise ValueError(f"storage '{key}' has {count} elements")
            starts[key] = position + 8
            position += 8 + storage.size
        if storages.keys() - starts.keys() or position > file.size:
            raise file.error(f"cut off: it has {file.size} bytes, and its storages end at {position} or later")
    return _tensors(
        file, root, {key: Bytes(functools.partial(_within, file, start), int) for key, start in starts.items()}
    )


def _within(file: File, base: int, start: int, size: int) -> np.ndarray:
    return file.read(base + start, size)


def _tensors(file: File, root: Any, storages: dict[str, Bytes]) -> Tensors:
    metadata: dict[str, Any] = {}

    def found() -> Iterator[tuple[str, Tensor]]:
        for name, value in _leaves(file, root):
            if type(value) is StridedTensor:
                yield name, _tensor(value, storages[value.storage.key])
            elif _is_plain(value) or (type(value) in (list, tuple) and all(map(_is_plain, value))):
                metadata[name] = value

    tensors = collected(file, found())
    if not tensors:
        raise file.error("it holds no tensors by name")
    tensors.metadata = metadata
    return tensors


def _leaves(file: File, root: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything that is not a dict or object, names joined with dots, in the order of the file.

    Lists of more than _LONGEST_LIST items are left out.
    """
    pending, count, characters = [("", root)], 0, 0
    while pending:
        name, value = pending.pop()
        fields = value.fields if type(value) is Record else value
        count += len(fields) if type(fields) in (dict, list, tuple) else 0
        if count > limits.PICKLE_ENTRIES or characters > limits.TENSOR_NAMES:
            raise file.error("damaged: its dicts contain themselves, or have no end")
        if type(fields) is not dict:
            if type(fields) not in (list, tuple) or len(fields) <= _LONGEST_LIST:
                yield name, value
            continue
        prefix = f"{name}." if name else ""
        for key, child in reversed(fields.items()):
            if type(key) is str and len(prefix) + len(key) > limits.TENSOR_NAME:
                raise file.error("damaged: a name is too long; its dicts contain themselves, or have no end")
            pending.append((f"{prefix}{key}", child))
            characters += len(pending[-1][0])


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def _tensor(view: StridedTensor, storage: Bytes) -> Tensor:
    def read() -> np.ndarray:
        item = view.dtype.itemsize
        data = storage.read(view.offset * item, view.extent * item).view(view.dtype)
        if _is_contiguous(view):
            return data.reshape(view.shape)
        strides = [stride * item if side > 1 else 0 for side, stride in zip(view.shape, view.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(data, view.shape, strides, writeable=False)

    # An expanded tensor takes no more than its storage here; `import_variables` counts the full array.
    extent = view.extent * view.dtype.itemsize
    return Tensor(view.shape, view.dtype, read, storage.cost(extent) if extent else 0)


def _is_contiguous(view: StridedTensor) -> bool:
    expected = 1
    for side, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if side > 1 and stride != expected:
            return 0 in view.shape
        expected *= side
    return True
