"""Files of weights made byte by byte from their formats' descriptions, by none of the libraries that write them."""

import io
import json
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Name
    arguments: tuple


class New(NamedTuple):
    kind: Name
    state: Any


class Stored(NamedTuple):
    """A reference to a storage, as torch's pickler writes persistent ids."""

    kind: str
    key: str
    count: int


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2 (pickletools.py of Python has the opcodes)."""
    return b"\x80\x02" + _code(value) + b"."


def _code(value: Any) -> bytes:
    match value:
        case Stored(kind, key, count):
            return _code(("storage", Name("torch", kind), key, "cpu", count)) + b"Q"
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return _code(function) + _code(arguments) + b"R"
        case New(kind, state):
            return _code(kind) + b")\x81" + _code(state) + b"b"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case float():
            return b"G" + struct.pack(">d", value)
        case int():
            data = value.to_bytes(10, "little", signed=True)
            return b"\x8a\x0a" + data
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_code(key) + _code(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


ORDERED_DICT = Call(Name("collections", "OrderedDict"), ())


def tensor(kind: str, key: str, count: int, offset: int, shape: tuple, strides: tuple) -> Call:
    """A tensor in a storage of `count` elements; offset and strides in elements."""
    arguments = (Stored(kind, key, count), offset, shape, strides, False, ORDERED_DICT)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def parameter(inner: Call) -> Call:
    return Call(Name("torch._utils", "_rebuild_parameter"), (inner, True, ORDERED_DICT))


def archive(pickle, storages=None, prefix="archive/", compression=0, is_zip64=False, **more: bytes | str) -> bytes:
    """A zip archive as torch.save writes it, of a pickle and of storages by key; `more` are further members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr(f"{prefix}data.pkl", pickle)
        for key, data in (storages or {}).items():
            with file.open(f"{prefix}data/{key}", "w", force_zip64=is_zip64) as member:
                member.write(data)
        for name, data in more.items():
            file.writestr(f"{prefix}{name}", data)
        file.writestr(f"{prefix}version", "3\n")
    return stream.getvalue()


def legacy(root: Any, storages: dict[str, tuple[int, bytes]]) -> bytes:
    """A file as torch.save wrote it before 1.6; storages are (number of elements, bytes) by key."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickled(part) for part in (0x1950A86A20F9469CFC6C, 1001, system, root, list(storages))]
    return b"".join(parts) + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz(arrays: dict[str, np.ndarray], compression=0) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compression else np.savez)(stream, **arrays)
    return stream.getvalue()
