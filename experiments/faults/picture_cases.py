"""What the makers of hostile files share: the table of cases, and the building blocks of pictures."""

import pathlib
import struct
import zlib
from collections.abc import Callable

# what is wrong -> (kind of reader, function of a folder that makes the file and returns its path)
CASES: dict[str, tuple[str, Callable]] = {}


def case(kind: str, what: str, name: str = "file"):
    """Registers a function of a path that makes a file, or that returns its bytes."""

    def register(make: Callable) -> Callable:
        def made(folder: pathlib.Path) -> pathlib.Path:
            path = folder / name
            content = make(path)
            if isinstance(content, bytes):
                path.write_bytes(content)
            return path if content is None or isinstance(content, bytes) else content

        CASES[what] = (kind, made)
        return make

    return register


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, color: int = 2, before: bytes = b"", claims=None) -> bytes:
    """A black one; color: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; claims: (width, height) of its header."""
    row = bytes(1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] + 7) // 8)
    packer = zlib.compressobj(1)
    rows = max(2**20 // len(row), 1)
    data = b"".join(packer.compress(row * min(rows, height - done)) for done in range(0, height, rows)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *(claims or (width, height)), depth, color, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(3 * 2 ** min(depth, 8))) if color == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + before + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")
