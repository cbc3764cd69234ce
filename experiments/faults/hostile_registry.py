"""What makes hostile files: parts of pickles, zip files and arrays, and the cases by name.

A case makes one file or folder in an empty folder and returns what is to be opened. Those in `FILES` are read whole by
`open_tensors`, those in `MODELS`, whose folder has the valid ones of `fuzz_weights.make_folders`, by `vj.load_pretrained`.
"""

import pathlib
import struct
import zlib
from collections.abc import Callable

from hand_made import archive, pickled, tensor

Case = Callable[[pathlib.Path], pathlib.Path]
FILES: dict[str, Case] = {}
MODELS: dict[str, Case] = {}
WEIGHT = tensor("FloatStorage", "0", 1, 0, (1,), (1,))
MANY = 1_600_000


def code(value) -> bytes:
    """The opcodes that put a value on the stack."""
    return pickled(value)[2:-1]


def file(name: str, cases: dict[str, Case] = FILES):
    """Registers a function that gives the bytes of a file."""

    def register(make: Callable[[], bytes]):
        def case(folder: pathlib.Path) -> pathlib.Path:
            (folder / "weights").write_bytes(make())
            return folder / "weights"

        cases[name] = case
        return make

    return register


def torch_pickle(name: str):
    """Registers the code of a pickle, in an archive with one storage of a number."""
    return lambda make: file(f".pth: {name}")(lambda: archive(b"\x80\x02" + make() + b".", {"0": bytes(4)}))


def bomb(size: int) -> bytes:
    """Deflated zeros, `size` bytes in a thousandth of them."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(2**24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * (size // 2**24) + b"\x03\x00"


def zipped(*members: tuple[str, bytes, int, int, int]) -> bytes:
    """A zip file of (name, data as it is kept, size, method, checksum), each written as it is said."""
    body, directory = b"", b""
    for name, data, size, method, checksum in members:
        fields = struct.pack("<HHHHIIIHH", 0, method, 0, 33, checksum, len(data), min(size, 2**32 - 1), len(name), 0)
        directory += (
            b"PK\x01\x02\x14\x00\x14\x00" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        )
        body += b"PK\x03\x04\x14\x00" + fields + name.encode() + data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def stored(name: str, data: bytes) -> tuple[str, bytes, int, int, int]:
    return name, data, len(data), 0, zlib.crc32(data)


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def entry(shape=(1,), dtype="F32", start=0, end=4) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
