"""PyTorch's files without torch: zip archives (since 1.6), TorchScript archives, and the older files of pickles in a row."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vision_jax.weights.tensors import File, Tensor, Tensors
from vision_jax.weights.torch_objects import Record, StridedTensor
from vision_jax.weights.torch_pickle import load
from vision_jax.weights.zip_archive import ZipArchive

_PICKLE = "data.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL = 1001
_MOST_ENTRIES, _LONGEST_NAME = 500_000, 1000  # of a checkpoint; more is a file built to be endless
_LONGEST_LIST = 1000  # that is kept as metadata

Bytes = Callable[[int, int], np.ndarray]  # (start, size) -> uint8[size] of a storage


def is_torch_archive(archive: ZipArchive) -> bool:
    return _prefix(archive) is not None


def open_torch_archive(archive: ZipArchive) -> Tensors:
    """The tensors of a checkpoint or of a TorchScript module, by their names joined with dots. Raises ConfigError."""
    file, prefix = archive.file, _prefix(archive)
    is_script = f"{prefix}constants.pkl" in archive.sizes
    order = f"{prefix}byteorder"
    if order in archive.sizes and archive.read(order).tobytes() != b"little":
        raise file.error("it was written on a big-endian machine; load it there and save it as safetensors")
    root, storages = load(archive.read(f"{prefix}{_PICKLE}").tobytes(), file, is_script)
    members = {key: f"{prefix}data/{key}" for key in storages}
    for key, storage in storages.items():
        size = archive.sizes.get(members[key])
        if size is None or size < storage.size:
            raise file.error(f"damaged: storage '{members[key]}' has {size or 0} bytes, but needs {storage.size}")
    return _tensors(file, root, {key: functools.partial(archive.read, name) for key, name in members.items()})


def _prefix(archive: ZipArchive) -> str | None:
    """What stands before every member's name: that of the file when it was written, or "archive/"."""
    names = [name for name in archive.sizes if name == _PICKLE or name.endswith(f"/{_PICKLE}")]
    shortest = min(names, key=len, default=None)
    return None if shortest is None else shortest.removesuffix(_PICKLE)


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts with `head`, 32 bytes or so, is one of torch before 1.6."""
    return head[:1] == b"\x80" and _MAGIC.to_bytes(10, "little") in head


def open_legacy(file: File) -> Tensors:
    """Pickles of magic number, version, system, checkpoint and storage keys; then for each key its length and bytes."""
    with open(file.path, "rb") as stream, file.parsing("the file"):
        (magic, _), (version, _), (system, _) = (load(stream, file) for _ in range(3))
        if magic != _MAGIC or version != _PROTOCOL or system["little_endian"] is not True:
            raise file.error("it is of a version or of a machine whose files are not read")
        (root, storages), (keys, _) = load(stream, file), load(stream, file)
        position = stream.tell()
    starts = {}
    with file.parsing("the list of storages"):
        for key in keys:
            count, storage = int.from_bytes(file.read(position, 8).tobytes(), "little"), storages[key]
            if count * (storage.dtype.itemsize if storage.dtype else 1) != storage.size:
                raise ValueError(f"storage '{key}' has {count} elements")
            starts[key] = position + 8
            position += 8 + storage.size
        if storages.keys() - starts.keys() or position > file.size:
            raise file.error(f"cut off: it has {file.size} bytes, and its storages end at {position} or later")
    return _tensors(file, root, {key: functools.partial(_within, file, start) for key, start in starts.items()})


def _within(file: File, base: int, start: int, size: int) -> np.ndarray:
    return file.read(base + start, size)


def _tensors(file: File, root: Any, storages: dict[str, Bytes]) -> Tensors:
    tensors, metadata = {}, {}
    for name, value in _leaves(file, root):
        if type(value) is StridedTensor:
            if name in tensors:
                raise file.error(f"two tensors have the name '{name}'")
            tensors[name] = _tensor(value, storages[value.storage.key])
        elif _is_plain(value) or _is_plain_list(value):
            metadata[name] = value
    if not tensors:
        raise file.error("it holds no tensors by name")
    return Tensors(file.path, tensors, metadata)


def _leaves(file: File, root: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of what is neither dict nor object, names joined with dots, in the order of the file."""
    pending, count = [("", root)], 0
    while pending:
        name, value = pending.pop()
        fields = value.fields if type(value) is Record else value
        if type(fields) is not dict:
            yield name, value
            continue
        count += len(fields)
        if count > _MOST_ENTRIES or len(name) > _LONGEST_NAME:
            raise file.error("damaged: its dicts contain themselves, or have no end")
        prefix = f"{name}." if name else ""
        pending.extend((f"{prefix}{key}", child) for key, child in reversed(fields.items()))


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def _is_plain_list(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) <= _LONGEST_LIST and all(map(_is_plain, value))


def _tensor(view: StridedTensor, storage: Bytes) -> Tensor:
    def read() -> np.ndarray:
        item = view.dtype.itemsize
        data = storage(view.offset * item, view.extent * item).view(view.dtype)
        if _is_contiguous(view):
            return data.reshape(view.shape)
        strides = [stride * item if side > 1 else 0 for side, stride in zip(view.shape, view.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(data, view.shape, strides, writeable=False)

    return Tensor(view.shape, view.dtype, read)


def _is_contiguous(view: StridedTensor) -> bool:
    expected = 1
    for side, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if side > 1 and stride != expected:
            return 0 in view.shape
        expected *= side
    return True
