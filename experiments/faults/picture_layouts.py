"""Where the fields and parts of pictures and tar files lie, and changes of them that mend what guards them."""

import io
import itertools
import random
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 16, 255, 256, 257, 4095, 30000, 32767, 32768, 65535, 65536, 2**20, 2**24)
NUMBERS += (2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


class Layout(NamedTuple):
    """Where a file's fields and parts are, and what mends its checksums.

    fields: (offset, bytes, "big" or "little"). parts: (start, stop), one after the other.
    """

    fields: Sequence[tuple[int, int, str]]
    parts: Sequence[tuple[int, int]]
    mend: Callable[[bytes], bytes] = bytes


def mutated(content: bytes, layout: Layout, rng: random.Random) -> bytes:
    """One to four changes."""
    data, parts = bytearray(content), None
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.random()
        if kind < 0.6 and layout.fields:
            at, size, order = rng.choice(layout.fields)
            old = int.from_bytes(data[at : at + size], order)
            new = rng.choice((rng.choice(NUMBERS), old + rng.choice((-1, 1)), old * 2, rng.getrandbits(8 * size)))
            data[at : at + size] = (new % 256**size).to_bytes(size, order)
        elif kind < 0.75:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif layout.parts:
            parts = list(layout.parts) if parts is None else parts
            _move(parts, rng)
    if parts is not None:
        first = layout.parts[0][0]
        data = data[:first] + b"".join(data[start:stop] for start, stop in parts) + data[layout.parts[-1][1] :]
    if rng.random() < 0.05:
        del data[rng.randrange(len(data) + 1) :]
    return layout.mend(bytes(data)) if rng.random() < 0.9 else bytes(data)


def _move(parts: list, rng: random.Random) -> None:
    if not parts:
        return
    i, j = (rng.randrange(len(parts)) for _ in range(2))
    match rng.randrange(4):
        case 0:
            parts[i], parts[j] = parts[j], parts[i]
        case 1:
            parts.insert(j, parts[i])
        case 2:
            del parts[i]
        case 3:
            parts[j:j] = [parts[i]] * rng.choice((2, 30, 300))


def png(content: bytes) -> Layout:
    fields, parts, at = [], [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        fields.append((at, 4, "big"))
        if content[at + 4 : at + 8] == b"IHDR":
            fields += [(at + 8, 4, "big"), (at + 12, 4, "big"), *((at + 16 + i, 1, "big") for i in range(5))] * 3
        parts.append((at, at + 12 + length))
        at += 12 + length
    return Layout(fields, parts, _mend_png)


def _mend_png(data: bytes) -> bytes:
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def jpeg(content: bytes) -> Layout:
    fields, parts, at = [], [], 2
    while at < len(content) - 2:
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        fields += [(at + 1, 1, "big"), (at + 2, 2, "big"), *((at + i, 1, "big") for i in range(4, min(4 + size, 24)))]
        stop = at + 2 + size
        if content[at + 1] == 0xDA:  # its data go on to the next marker
            stop += re.search(rb"\xff[^\x00\xd0-\xd7]", content[stop:]).start()
        if content[at + 1] in (0xC0, 0xC2):
            fields += [(at + 5, 2, "big"), (at + 7, 2, "big")] * 4
        parts.append((at, stop))
        at = stop
    return Layout(fields, parts)


def gif(content: bytes) -> Layout:
    at = content.index(b",", 13 + 3 * (2 << (content[10] & 7)))
    fields = [(i, 2, "little") for i in (6, 8, at + 1, at + 3, at + 5, at + 7)] + [
        (i, 1, "big") for i in (10, at + 9, at + 10)
    ]
    return Layout(fields, [(6, 13), (13, at), (at, at + 11), (at + 11, len(content) - 1)])


def webp(content: bytes) -> Layout:
    fields, parts, at = [(4, 4, "little")], [], 12
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        fields += [(at + 4, 4, "little"), *((at + 8 + i, 2, "little") for i in range(0, min(size, 16), 2))]
        parts.append((at, at + 8 + size + size % 2))
        at = parts[-1][1]
    return Layout(fields, parts)


def bmp(content: bytes) -> Layout:
    return Layout(
        [(i, 4, "little") for i in (2, 10, 14, 18, 22, 30, 34, 46, 50)] + [(i, 2, "little") for i in (26, 28)], []
    )


def tiff(content: bytes) -> Layout:
    first = int.from_bytes(content[4:8], "little")
    entries = range(first + 2, first + 2 + 12 * int.from_bytes(content[first : first + 2], "little"), 12)
    fields = [(first, 2, "little"), (4, 4, "little")]
    for at in entries:
        fields += [
            (at, 2, "little"),
            (at + 2, 2, "little"),
            (at + 4, 4, "little"),
            (at + 8, 4, "little"),
            (at + 8, 2, "little"),
        ]
    return Layout(fields, [(at, at + 12) for at in entries])


def ppm(content: bytes) -> Layout:
    tokens = [match.span() for match in re.finditer(rb"\S+\s", content[:12])]
    return Layout([(i, 1, "big") for i in range(12)], tokens)


def tar(content: bytes) -> Layout:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        ends = [member.offset for member in archive] + [len(content)]
        heads = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    fields = [(at + i, 1, "big") for at in heads for i in (0, 124, *range(130, 136), 156, 157, 345)]
    fields += [(at + 512 + i, 1, "big") for at in heads if content[at + 156 : at + 157] in b"xL" for i in range(24)]
    return Layout(fields, list(itertools.pairwise(ends)), _mend_tar)


def _mend_tar(data: bytes) -> bytes:
    data = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)
