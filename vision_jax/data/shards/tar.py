"""Finds the members of a tar file by their headers alone, even past damage.

Python's tarfile ends silently at the first damaged header, and keeps an object for every member. Formats: ustar (POSIX
1003.1-1988), GNU's long names and large sizes, and pax (POSIX 1003.1-2001) extended headers.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from vision_jax import limits

_BLOCK = 512
_LONGEST_EXTENSION = 2**20  # bytes of an extended header; a longer one counts as damage
_LONGEST_NUMBER = 20  # decimal digits in one
_LOOK_AHEAD = 2**20  # bytes to look at after the end of an archive; its padding has 10,240 at most

DAMAGED = "damaged tar header"
CUT_OFF = "cut off by the end of the file"
TRAILING = "bytes after the end of the archive"
EXTENDED = f"more than {limits.TAR_EXTENSION_BYTES:,} bytes of extended headers before it"


class Member(NamedTuple):
    name: bytes  # empty: unknown
    offset: int  # of its data, in bytes from the start of the file
    size: int  # of its data, in bytes
    problem: str = ""  # DAMAGED, CUT_OFF, TRAILING, EXTENDED or empty


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes


def members(stream: BinaryIO, length: int) -> Iterator[Member]:
    """The regular files of a tar file of `length` bytes, in order.

    A damaged header gives a nameless member with its position, and reading continues at the next block that is a header.
    The member after it is DAMAGED, too: the lost header may have held its real name. A file that ends in the middle of a
    member, or without the two empty blocks (or one) that end an archive, gives a CUT_OFF member at its end.
    Past `limits.TAR_EXTENSION_BYTES` of extended headers, members that have one are EXTENDED.
    """
    position, extended, in_damage, doubt, room = 0, {}, False, "", limits.TAR_EXTENSION_BYTES
    while position + _BLOCK <= length:
        block = _read(stream, position, _BLOCK)
        position += _BLOCK
        header = _parse(block)
        if header is None:
            if not any(block) and not any(_read(stream, position, _BLOCK)):
                if any(_read(stream, position, _LOOK_AHEAD)):
                    yield Member(b"", position, 0, TRAILING)
                return
            if not in_damage:
                yield Member(b"", position - _BLOCK, 0, DAMAGED)
            extended, in_damage, doubt = {}, True, DAMAGED
            continue
        in_damage = False
        kind, size = header.kind, header.size
        if kind in b"123456":  # links, devices and folders have no data
            extended = {}
            continue
        if kind not in b"xXgLK":
            size = extended.get(b"size", size)
            if position + size > length:
                yield Member(extended.get(b"path", header.name), position, size, CUT_OFF)
                return
            if kind in b"0\0007":
                doubt = doubt or (DAMAGED if b"GNU.sparse" in extended else "")
                yield Member(extended.get(b"path", header.name), position, size, doubt)
            extended, doubt = {}, ""
        elif position + size > length:
            yield Member(b"", position, size, CUT_OFF)
            return
        elif kind in b"xXL":
            room -= size
            is_read = size <= _LONGEST_EXTENSION and room >= 0
            found = _extension(kind, _read(stream, position, size)) if is_read else None
            if found is None:
                doubt = DAMAGED if room >= 0 else EXTENDED
                yield Member(b"", position - _BLOCK, 0, doubt)
            extended |= found or {}
        position += -(-size // _BLOCK) * _BLOCK
    yield Member(b"", min(position, length), 0, CUT_OFF)


def _read(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _parse(block: bytes) -> _Header | None:
    """The header in a block; None if its checksum is wrong."""
    try:
        checksum = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        return None
    if checksum != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    return _Header(name, size, block[156:157])


def _number(field: bytes) -> int:
    """A number in octal digits, or in GNU's big-endian binary, marked by its first bit."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise ValueError("a negative number")
        return int.from_bytes(field[1:], "big")
    digits = _text(field).strip()
    if not digits.isdigit() and digits:
        raise ValueError("not octal")
    return int(digits or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _extension(kind: bytes, data: bytes) -> dict | None:
    """The next member's b"path", b"size" and b"GNU.sparse" from an extended header; None if it cannot be read."""
    if kind == b"L":
        return {b"path": _text(data)}
    found, at = {}, 0
    data = data.rstrip(b"\0")
    while at < len(data):
        space = data.find(b" ", at, at + _LONGEST_NUMBER)
        length = data[at:space]
        if space < 0 or not length.isdigit() or not len(length) + 2 < int(length) <= len(data) - at:
            return None
        end = at + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            return None
        if key == b"path":
            found[key] = value
        elif key == b"size":
            if not value.isdigit() or len(value) > _LONGEST_NUMBER:
                return None
            found[key] = int(value)
        elif key.startswith(b"GNU.sparse."):
            found[b"GNU.sparse"] = True
        at = end
    return found
