"""Files that are nearly right: fields of a valid file changed, its parts moved, doubled and lost, its checksums mended.

`KINDS[name]` is (reader, file name, function of a random.Random that makes the content of a mutated file).
"""

import copy
import gzip
import io
import itertools
import json
import random
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

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


def _png(content: bytes) -> Layout:
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


def _jpeg(content: bytes) -> Layout:
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


def _gif(content: bytes) -> Layout:
    at = content.index(b",", 13 + 3 * (2 << (content[10] & 7)))
    fields = [(i, 2, "little") for i in (6, 8, at + 1, at + 3, at + 5, at + 7)] + [
        (i, 1, "big") for i in (10, at + 9, at + 10)
    ]
    return Layout(fields, [(6, 13), (13, at), (at, at + 11), (at + 11, len(content) - 1)])


def _webp(content: bytes) -> Layout:
    fields, parts, at = [(4, 4, "little")], [], 12
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        fields += [(at + 4, 4, "little"), *((at + 8 + i, 2, "little") for i in range(0, min(size, 16), 2))]
        parts.append((at, at + 8 + size + size % 2))
        at = parts[-1][1]
    return Layout(fields, parts)


def _bmp(content: bytes) -> Layout:
    return Layout(
        [(i, 4, "little") for i in (2, 10, 14, 18, 22, 30, 34, 46, 50)] + [(i, 2, "little") for i in (26, 28)], []
    )


def _tiff(content: bytes) -> Layout:
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


def _ppm(content: bytes) -> Layout:
    tokens = [match.span() for match in re.finditer(rb"\S+\s", content[:12])]
    return Layout([(i, 1, "big") for i in range(12)], tokens)


def _tar(content: bytes) -> Layout:
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
    return mutated(content, Layout(fields, []), rng) if rng.random() < 0.4 else content


SHARD = _shard(tarfile.PAX_FORMAT)
SHARD_BYTES = len(SHARD)


def _kinds() -> dict[str, tuple[str, str, Callable]]:
    kinds: dict[str, tuple[str, str, Callable]] = {}
    modes, pictures = ("RGB", "L", "P"), _pictures()
    formats = {
        "PNG": (_png, ("RGB", "RGBA", "P", "I;16"), ({}, {"pnginfo": None})),
        "JPEG": (_jpeg, ("RGB", "L", "CMYK"), ({}, {"progressive": True})),
        "GIF": (_gif, ("P",), ({}, {"transparency": 3, "disposal": 2})),
        "WEBP": (_webp, ("RGB", "RGBA"), ({}, {"lossless": True}, {"save_all": True, "append_images": [pictures["RGB"]]})),
        "BMP": (_bmp, modes, ({},)),
        "TIFF": (_tiff, ("RGB", "P", "I;16", "CMYK"), ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"})),
        "PPM": (_ppm, ("RGB", "L", "I;16"), ({},)),
    }  # fmt: skip
    for format, (layout, names, options) in formats.items():
        contents = [_saved(pictures[name], format, **option) for name in names for option in options]
        valid = [(content, layout(content)) for content in contents]
        kinds[format] = ("picture", "a.png", lambda rng, valid=valid: mutated(*rng.choice(valid), rng))
    for name, format in (("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        content = _shard(format)
        pair = content, _tar(content)
        kinds[name] = ("shard", "a.tar", lambda rng, pair=pair: mutated(*pair, rng))
    classes = ["cat", {"name": "boxer", "context": "a dog"}, "a b"]
    kinds["classes"] = ("classes", "a.json", lambda rng: mutated_json(classes, rng))
    kinds["templates"] = (
        "templates",
        "a.json",
        lambda rng: mutated_json({"templates": ["a {}.", "{} {context}"]}, rng),
    )
    kinds["vocabulary (gzip)"] = ("vocabulary", "bpe.txt.gz", _merges_gz)
    kinds["vocabulary (JSON)"] = ("vocabulary", "tokenizer.json", _tokenizer_json)
    kinds["selection"] = ("selection", "b.npz", _selection)
    return kinds


KINDS = _kinds()
