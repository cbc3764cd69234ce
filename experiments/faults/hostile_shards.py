"""Tar shards that ask for too much, and their indexes; CASES of picture_cases gets them."""

import json
import os
import tarfile
import zlib

import numpy as np
from picture_cases import case, png


def member(name: str, size: int, kind: bytes = b"0") -> bytes:
    """The header of a tar member."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


PAIR = member("a.jpg", 69) + padded(png(1, 1)[:69]) + member("a.txt", 3) + padded(b"cat")


def _shard(what: str):
    return case("shard", what, "a.tar")


@_shard("pax header of 150,000 records")
def _(path):
    records = b"7 a=bc\n" * 149_000
    return member("x", len(records), b"x") + padded(records) + PAIR + bytes(1024)


@_shard("40 pax headers of 140,000 records")
def _(path):
    records = b"7 a=bc\n" * 140_000
    return (member("x", len(records), b"x") + padded(records)) * 40 + PAIR + bytes(1024)


@_shard("100 MiB of pax headers, after a pair")
def _(path):
    records = b"7 a=bc\n" * 140_000
    return PAIR + (member("x", len(records), b"x") + padded(records)) * 107 + member("b.txt", 0) + bytes(1024)


@_shard("300,000 pax headers")
def _(path):
    return (member("x", 7, b"x") + padded(b"7 a=bc\n")) * 300_000 + PAIR + bytes(1024)


@_shard("pax sizes: negative, of 5,000 digits, beyond the file")
def _(path):
    content = b""
    for size in (b"-512", b"9" * 5000, b"9" * 19):
        for digits in range(1, 6):
            if len(record := b"%d size=%s\n" % (len(size) + 7 + digits, size)) == len(size) + 7 + digits:
                content += member("x", len(record), b"x") + padded(record) + member("b.jpg", 1) + padded(b"b")
    return PAIR + content + bytes(1024)


@_shard("long names without end")
def _(path):
    return (member("x", 2**20, b"L") + b"n" * 2**20) * 40 + PAIR + bytes(1024)


@_shard("20,000 pairs, one of whose names has 1 MiB")
def _(path):
    name = b"n" * (2**20 - 6)
    long = member("x", 2**20, b"L") + padded(name + b".jpg\0").ljust(2**20, b"\0") + member("n", 1) + padded(b"n")
    long += member("x", 2**20, b"L") + padded(name + b".txt\0").ljust(2**20, b"\0") + member("n", 1) + padded(b"n")
    pairs = (member(f"{i}.jpg", 1) + padded(b"p") + member(f"{i}.txt", 1) + padded(b"c") for i in range(20_000))
    return b"".join(pairs) + long + bytes(1024)


@_shard("members that are links, devices, pipes and folders")
def _(path):
    return b"".join(member(f"{kind}.jpg", 0, b"%d" % kind) for kind in range(1, 7)) + PAIR + bytes(1024)


@_shard("200,000 empty members")
def _(path):
    return member("e.txt", 0) * 200_000 + PAIR + bytes(1024)


@_shard("a picture of 8 GB, with holes")
def _(path):
    with open(path, "wb") as stream:
        stream.write(PAIR + member("b.txt", 3) + padded(b"cat") + member("b.jpg", 8 * 10**9))
        stream.truncate(stream.tell() + 8 * 10**9 // 512 * 512 + 1024)


@_shard("a caption of 2 GB, with holes")
def _(path):
    with open(path, "wb") as stream:
        stream.write(PAIR + member("b.jpg", 3) + padded(b"cat") + member("b.txt", 2 * 10**9))
        stream.truncate(stream.tell() + 2 * 10**9 // 512 * 512 + 1024)


@_shard("8,000 captions of 1 MiB, all of them holes")
def _(path):
    with open(path, "wb") as stream:
        for number in range(8000):
            stream.write(member(f"{number}.jpg", 1) + padded(b"p") + member(f"{number}.txt", 2**20))
            stream.seek(2**20, os.SEEK_CUR)
        stream.write(bytes(1024))


@_shard("JSON of 900 kB, deeply nested and of long numbers")
def _(path):
    parts = [b"[" * 900_000, b'{"caption": ' + b"9" * 900_000 + b"}", b'{"a":' * 150_000]
    content = b"".join(
        member(f"{i}.jpg", 1) + padded(b"p") + member(f"{i}.json", len(part)) + padded(part)
        for i, part in enumerate(parts)
    )
    return PAIR + content + bytes(1024)


@_shard("names of control characters")
def _(path):
    return member("\x1b[2J\nerror.txt", 1) + padded(b"c") + PAIR + bytes(1024)


def _indexed(path, row=(512, 69, 1536, 3, False, b"a"), **changed):
    """A shard of one pair, and beside it an index of that row whose size and checksum are right."""
    path.write_bytes(PAIR + bytes(1024))
    dtype = np.dtype(
        [*((n, "<i8") for n in ("picture", "picture_size", "caption", "caption_size")), ("is_json", "?"), ("key", "S1")]
    )
    rows = np.array([row] if row else [], dtype).tobytes()
    status = path.stat()
    head = dict(format="vision_jax shard index 1", size=status.st_size, mtime_ns=status.st_mtime_ns, key_bytes=1)
    head |= dict(pairs=1 if row else 0, crc32=zlib.crc32(rows), skipped={}) | changed
    path.with_name("a.tar.index").write_bytes(json.dumps(head).encode() + b"\n" + rows)


@_shard("an index beside it that points out of it")
def _(path):
    _indexed(path, (512, 2**50, 0, 2**50, False, b"a"))


@_shard("an index beside it with offsets that overflow")
def _(path):
    _indexed(path, (2**63 - 1, 69, 1536, 3, False, b"a"))


for _what, _changed in {
    "escape sequences for a reason": dict(skipped={"\x1b[2J\nerror: none": [1, ["a"]]}),
    "a reason without names": dict(row=(), skipped={"no caption": [1, []]}),
    "a reason of 100,000 names": dict(skipped={"no caption": [100_000, ["a"] * 100_000]}),
    "nested names": dict(skipped={"no caption": [1, [["a"]]]}),
    "an infinite count": dict(skipped={"no caption": [float("inf"), ["a"]]}),
    "fewer than no pairs": dict(pairs=-1),
    "keys of 2^40 bytes": dict(row=(), pairs=0, key_bytes=2**40),
}.items():
    _shard(f"an index beside it with {_what}")(lambda path, changed=_changed: _indexed(path, **changed))


@_shard("an index beside it that nests deeply")
def _(path):
    path.write_bytes(PAIR + bytes(1024))
    path.with_name("a.tar.index").write_bytes(b"[" * 1_000_000 + b"\n")


@_shard("a pipe for an index beside it")
def _(path):
    path.write_bytes(PAIR + bytes(1024))
    os.mkfifo(path.with_name("a.tar.index"))


@case("shard", "a pattern of a billion shards", "{0..999999999}.tar")
def _(path):
    return path


@case("shard", "a pattern of 2^40 shards", "{a,b}" * 40 + ".tar")
def _(path):
    return path


@case("shard", "a pattern of 2^20 names of 8,000 characters", "n" * 8000 + "{a,b}" * 20 + ".tar")
def _(path):
    return path


@case("shard", "a pattern of 5,000 digits", "{0.." + "9" * 5000 + "}.tar")
def _(path):
    return path
