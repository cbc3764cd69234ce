"""Selections, vocabularies, class names, templates and queries that ask for too much; CASES of picture_cases gets them."""

import gzip
import io
import json
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np
from hostile_shards import PAIR, member, padded
from picture_cases import case, png


def selection(path: pathlib.Path, arrays: dict, compression: int = zipfile.ZIP_STORED) -> None:
    """An .npz file; arrays: name -> array, or the bytes of its .npy file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            if isinstance(array, np.ndarray):
                stream = io.BytesIO()
                np.save(stream, array)
                array = stream.getvalue()
            archive.writestr(f"{name}.npy", array)


def arrays(rows: int = 1) -> dict:
    return {
        "shards": np.frombuffer(b'["a.tar"]', np.uint8),
        "sizes": np.array([len(PAIR) + 1024]),
        "lengths": np.array([1]),
        "starts": np.array([0, rows]),
        "rows": np.zeros(rows, np.uint32),
    }


def npy(dtype: str, shape: tuple, data: bytes = b"") -> bytes:
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@case("selection", "rows that unpack to 4 GB", "a.npz")
def _(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays().items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                if name == "rows":
                    stream.write(npy("<u4", (10**9,)))
                    for _ in range(4000):
                        stream.write(bytes(10**6))
                else:
                    np.save(stream, array)


for _dtype, _shape in (("<u4", (2**60,)), ("|O", (1,)), ("<u4", (2,) * 70), ("<u4", (-1,)), ("<U1000000000", (1,))):
    case("selection", f"rows of type {_dtype} and shape {str(_shape)[:20]}", "a.npz")(
        lambda path, dtype=_dtype, shape=_shape: selection(path, arrays() | {"rows": npy(dtype, shape, bytes(4))})
    )


@case("selection", "rows of 4 GB, with holes", "a.npz")
def _(path):
    selection(path, arrays())
    whole = path.read_bytes()
    os.truncate(path, 4 * 10**9)
    with open(path, "ab") as stream:
        stream.write(whole)


@case("selection", "200,000 times one shard", "a.npz")
def _(path):
    path.with_name("a.tar").write_bytes(PAIR + bytes(1024))
    same = dict(sizes=np.full(200_000, len(PAIR) + 1024), lengths=np.ones(200_000, np.int64))
    names = np.frombuffer(json.dumps(["a.tar"] * 200_000).encode(), np.uint8)
    selection(path, arrays() | same | {"shards": names, "starts": np.arange(200_001).clip(0, 1)})


@case("selection", "300,000 members", "a.npz")
def _(path):
    selection(path, arrays() | {str(i): b"" for i in range(300_000)})


@case("selection", "shards that nest deeply", "a.npz")
def _(path):
    selection(path, arrays() | {"shards": np.frombuffer(b"[" * 1_000_000, np.uint8)})


@case("vocabulary", "10 MB of gzip that unpack to 10 GB", "bpe.txt.gz")
def _(path):
    packer, block = zlib.compressobj(9, wbits=31), b"a b\n" * 2**18
    return b"".join(packer.compress(block) for _ in range(10_000)) + packer.flush()


@case("vocabulary", "gzip of 500,000 empty members", "bpe.txt.gz")
def _(path):
    return gzip.compress(b"") * 500_000


for _what, _content in {
    "JSON that nests deeply": b'{"model": ' + b"[" * 1_000_000,
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "16 MB of empty lists": b'{"model": [' + b"[]," * 5_000_000 + b"[]]}",
    "half characters, lists for numbers": b'{"\\ud800": [1]}',
    "1,500,000 symbols": b"{" + b",".join(b'"%x":%d' % (i, i % 10) for i in range(1_200_000)) + b"}",
    "merges of numbers": b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}, "merges": [1, [2]]}}',
    "20 MB of text": b'{"a": "' + b"a" * 20_000_000 + b'"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}.items():
    case("vocabulary", f"vocabulary: {_what}", "tokenizer.json")(lambda path, content=_content: content)
    if _what not in ("merges of numbers", "half characters, lists for numbers"):
        case("classes", f"classes: {_what}", "a.json")(lambda path, content=_content: content)

for _what, _value in {
    "3,000,000 names": ["a"] * 3_000_000,
    "a name of 10 MB": ["a" * 10_000_000],
    "a name of escape sequences": [{"\x1b[2J": "a"}],
}.items():
    case("classes", f"classes: {_what}", "a.json")(lambda path, value=_value: json.dumps(value).encode())


@case("classes", "classes: a sparse file of 10 GB", "a.json")
def _(path):
    path.write_bytes(b"[]")
    os.truncate(path, 10 * 10**9)


@case("templates", "templates: 16 MB of braces", "a.json")
def _(path):
    return json.dumps(["{}" + "{a" * 7_000_000]).encode()


@case("queries", "queries: 15 MB of short lines", "a.txt")
def _(path):
    return b"\n".join(b"%x" % i for i in range(2_200_000))


def _curated(what: str, caption: bytes = b"a cat"):
    """A file of queries, by which one pair is curated."""

    def register(make):
        @case("curation", f"curation by {what}", "queries.txt")
        def _(path):
            picture, text = (
                member("a.jpg", 69) + padded(png(1, 1)[:69]),
                member("a.txt", len(caption)) + padded(caption),
            )
            path.with_name("a.tar").write_bytes(picture + text + bytes(1024))
            return make() + b"\ncat\na\n"

    return register


def _random(count: int, letters: int) -> bytes:
    drawn = np.random.default_rng(0).integers(97, 123, (count, letters + 1), np.uint8)
    drawn[:, -1] = 10
    return drawn.tobytes()


_curated("10 MB of random queries of 24 letters")(lambda: _random(410_000, 24))
_curated("10 MB of random queries of 7 letters")(lambda: _random(1_300_000, 7))
_curated("10 MB of random queries of 900 letters")(lambda: _random(11_600, 900))
_curated("9 MB of ligatures that are 18 letters each")(
    lambda: "\n".join(f"\ufdfa\ufdfa\ufdfa{i:x}" for i in range(600_000)).encode()
)
_curated("queries that begin each other, of a caption of 1 MB", b"a " * 500_000)(
    lambda: "\n".join(" ".join("a" * count) for count in range(1, 500)).encode()
)


@case("queries", "queries: a sparse file of 10 GB", "a.txt")
def _(path):
    path.write_bytes(b"a\n")
    os.truncate(path, 10 * 10**9)


@case("queries", "queries: 16 MB in a line", "a.txt")
def _(path):
    return b"a" * 15_000_000


for _what, _text in (
    ("10 MB of combining marks on a letter", "a" + "\u0315\u0300" * 2_500_000),
    ("100 MB of one word", "a" * 10**8),
    ("50 MB of damaged text", "Ã©" * 12_500_000),
):
    case("text", f"a caption: {_what}")(lambda path, text=_text: text.encode())
