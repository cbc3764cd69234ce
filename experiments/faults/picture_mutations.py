"""Files that are nearly right: fields of a valid file changed, its parts moved, doubled and lost, its checksums mended.

`KINDS[name]` is (reader, file name, function of a random.Random that makes the content of a mutated file).
"""

import contextlib
import copy
import functools
import gzip
import io
import json
import os
import pathlib
import random
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import picture_layouts
from PIL import Image


def _saved(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _pictures() -> dict[str, Image.Image]:
    y, x = np.mgrid[:23, :31]
    rgb = Image.fromarray(np.stack([x * 8, y * 11, x * y], axis=-1).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    deep = Image.fromarray((x * 2000).astype(np.uint16))
    return {
        "RGB": rgb,
        "RGBA": rgba,
        "P": rgb.quantize(16),
        "L": rgb.convert("L"),
        "I;16": deep,
        "CMYK": rgb.convert("CMYK"),
    }


def _shard(format: int) -> bytes:
    stream = io.BytesIO()
    picture = _saved(_pictures()["RGB"], "JPEG")
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for i in range(3):
            key = f"{i}" if format == tarfile.USTAR_FORMAT else f"{i}" + "é" * 80
            texts = {"txt": b"a cat"} if i < 2 else {"json": json.dumps({"caption": ["a", "b"]}).encode()}
            for suffix, data in {"jpg": picture, **texts}.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    1e308,
    2**64,
    "",
    "a",
    "\ud800",
    "\x1b[2J",
    "a\0b",
    "é" * 3000,
    [],
    {},
    [[]],
    {"a": 1},
)


def mutated_json(value, rng: random.Random) -> bytes:
    """A JSON text with one to four of its values replaced, doubled, dropped or renamed, or a text that is none."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            break
        parent, key = rng.choice(places[:50] if rng.random() < 0.5 else places)
        match rng.randrange(4):
            case 0 | 1:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            case 2:
                del parent[key]
            case 3 if isinstance(parent, dict):
                parent[rng.choice(("a", "\ud800", "", "é" * 3000, "\x1b"))] = parent[key]
            case 3:
                parent.insert(key, copy.deepcopy(parent[key]))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(20):
        case 0:
            return text.replace(b"1", b"1" * 5000, 1)
        case 1:
            return text[: rng.randrange(len(text) + 1)]
        case 2:
            return text.replace(b":", b":" + b"[" * 5000, 1)
        case 3:
            return text.replace(b"}", b"," + text[1:].partition(b",")[0] + b"}", 1)
        case 4:
            return text.decode("utf-8", "replace").encode(
                rng.choice(("utf-16", "utf-8-sig", "utf-32-le", "latin-1")), "replace"
            )
    return text


def _places(value, depth: int = 0):
    if depth < 6 and isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key], depth + 1)


def _symbols() -> list[str]:
    from vision_jax.data.tokenizers.vocabulary import byte_symbols

    symbols = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) > 255, symbol))
    return [*symbols, *(f"{symbol}</w>" for symbol in symbols), "he", "<|startoftext|>", "<|endoftext|>"]


def _tokenizer_json(rng: random.Random) -> bytes:
    ids = {name: id for id, name in enumerate(_symbols())}
    added = [{"content": name, "id": ids.pop(name)} for name in ("<|startoftext|>", "<|endoftext|>")]
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [["h", "e"]], "vocab": ids}
    return mutated_json({"added_tokens": added, "model": model}, rng)


def _merges_gz(rng: random.Random) -> bytes:
    lines = ["#version: 0.2", "h e", "l l", "he ll", ""]
    for _ in range(rng.randrange(3)):
        i = rng.randrange(len(lines))
        lines[i] = rng.choice(("", "h", "a b c", "\ud800 a", "é" * 9000, "\x1b[2J x", lines[i] * 2, "x y"))
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    content = bytearray(gzip.compress("\n".join(lines).encode("utf-8", "surrogatepass")))
    if rng.random() < 0.5:
        content[rng.choice((0, 1, 2, 3, 8, 9, rng.randrange(len(content)), len(content) - 1 - rng.randrange(8)))] = (
            rng.randrange(256)
        )
    return (
        bytes(content) * rng.choice((1, 1, 1, 2))
        if rng.random() < 0.95
        else bytes(content[: rng.randrange(len(content))])
    )


def _selection(rng: random.Random) -> bytes:
    arrays = {"shards": np.frombuffer(b'["a.tar"]', np.uint8), "rows": np.array([0, 2], np.uint32)}
    arrays |= {"sizes": np.array([SHARD_BYTES]), "lengths": np.array([3]), "starts": np.array([0, 2])}
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) if rng.random() < 0.2 else 0
    ) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            data = content.getvalue()
            if rng.random() < 0.3:
                old, new = rng.choice(
                    ((b"<i8", rng.choice((b"|O8", b"<f8", b"<U9", b">i8", b"<u8"))), (b"False", b"True "), (b"(", b"-"),
                     (b"2,)", rng.choice((b"9,)", b"-1)", b"2,2", b"()]"))), (b"\x01\x00", b"\x03\x00"), (b"shape", b"shapo"))
                )  # fmt: skip
                data = data.replace(old, new, 1)
            if rng.random() < 0.15:
                at = rng.randrange(len(data))
                data = data[:at] + rng.randbytes(rng.choice((1, 8))) + data[at + 1 :]
            if rng.random() < 0.97:
                archive.writestr(name + ".npy", data)
    content = stream.getvalue()
    ends = [match.start() for match in re.finditer(rb"PK\x01\x02|PK\x05\x06|PK\x03\x04", content)]
    fields = [
        (at + i, size, "little")
        for at in ends
        for i, size in ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4), (24, 4), (42, 4))
    ]
    return picture_layouts.mutated(content, picture_layouts.Layout(fields, []), rng) if rng.random() < 0.4 else content


SHARD = _shard(tarfile.PAX_FORMAT)
SHARD_BYTES = len(SHARD)


@functools.cache
def _valid_index() -> tuple[dict, bytes]:
    """The head and the rows of the index of SHARD, for modification time 0."""
    from vision_jax.data import open_source

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.tar")
        path.write_bytes(SHARD)
        os.utime(path, ns=(0, 0))
        with contextlib.redirect_stderr(io.StringIO()):
            open_source(f"wds:{path}")
        head, _, rows = path.with_name("a.tar.index").read_bytes().partition(b"\n")
    return json.loads(head) | {"skipped": {"no caption": [2, ["a", "b"]], "empty caption": [1, ["c"]]}}, rows


def _index(rng: random.Random) -> bytes:
    """An index whose head or rows are changed, most often with a checksum that fits again."""
    head, rows = _valid_index()
    changed = bytearray(rows)
    for _ in range(rng.choice((0, 0, 1, 3))):
        at, size = rng.randrange(len(rows) - 8), rng.choice((1, 8))
        changed[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    if rng.random() < 0.9:
        head = head | {"crc32": zlib.crc32(changed)}
    text = mutated_json(head, rng) if rng.random() < 0.6 else json.dumps(head).encode()
    return text + b"\n" + changed


def _kinds() -> dict[str, tuple[str, str, Callable]]:
    kinds: dict[str, tuple[str, str, Callable]] = {}
    modes, pictures = ("RGB", "L", "P"), _pictures()
    formats = {
        "PNG": (picture_layouts.png, ("RGB", "RGBA", "P", "I;16"), ({}, {"pnginfo": None})),
        "JPEG": (picture_layouts.jpeg, ("RGB", "L", "CMYK"), ({}, {"progressive": True})),
        "GIF": (picture_layouts.gif, ("P",), ({}, {"transparency": 3, "disposal": 2})),
        "WEBP": (picture_layouts.webp, ("RGB", "RGBA"), ({}, {"lossless": True}, {"save_all": True, "append_images": [pictures["RGB"]]})),
        "BMP": (picture_layouts.bmp, modes, ({},)),
        "TIFF": (picture_layouts.tiff, ("RGB", "P", "I;16", "CMYK"), ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"})),
        "PPM": (picture_layouts.ppm, ("RGB", "L", "I;16"), ({},)),
    }  # fmt: skip
    for format, (layout, names, options) in formats.items():
        contents = [_saved(pictures[name], format, **option) for name in names for option in options]
        valid = [(content, layout(content)) for content in contents]
        kinds[format] = ("picture", "a.png", lambda rng, valid=valid: picture_layouts.mutated(*rng.choice(valid), rng))
    for name, format in (("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        content = _shard(format)
        pair = content, picture_layouts.tar(content)
        kinds[name] = ("shard", "a.tar", lambda rng, pair=pair: picture_layouts.mutated(*pair, rng))
    classes = ["cat", {"name": "boxer", "context": "a dog"}, "a b"]
    kinds["classes"] = ("classes", "a.json", lambda rng: mutated_json(classes, rng))
    kinds["templates"] = (
        "templates",
        "a.json",
        lambda rng: mutated_json({"templates": ["a {}.", "{} {context}"]}, rng),
    )
    kinds["vocabulary (gzip)"] = ("vocabulary", "bpe.txt.gz", _merges_gz)
    kinds["vocabulary (JSON)"] = ("vocabulary", "tokenizer.json", _tokenizer_json)
    kinds["index"] = ("index", "a.tar.index", _index)
    kinds["selection"] = ("selection", "b.npz", _selection)
    return kinds


KINDS = _kinds()
