"""Structure-aware mutations of valid files of weights and of the JSON beside them: fields, not random bytes alone.

Checksums, lengths and offsets are made to fit again most of the time, so that the change gets past the first check.
"""

import io
import itertools
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 2**16, 10**6, 10**9, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.0, 0.5, 1e-12, -0.5, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "gelu", "0", "\x1b[2J", "a\nb", "\ud800", "../x", "/etc/passwd", "é" * 40, "k" * 2000,
    (), (1,), (1, 2), (1, 2, 3), (0, 0), (8, -8), (2**40, 2**40), ("a", "b"), [None], [[]], [1.5, 2.5, 3.5], {}, {"a": 1}, {"a": {"b": []}},
)  # fmt: skip
RAW = (
    "9" * 5000,
    "-" + "1" * 4000,
    "1e999",
    "[" * 3000 + "]" * 3000,
    '{"a":' * 900 + "1" + "}" * 900,
    '"\\u0000"',
    "",
    "nul",
)


def json_value(random: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one to three changes at any depth."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return random.choice(VALUES)
        parent, key = random.choice(places)
        match random.randrange(7):
            case 0 | 1 | 2:
                parent[key] = random.choice(VALUES)
            case 3:
                del parent[key]
            case 4:
                parent[key] = [parent[key]] if random.random() < 0.5 else {"a": parent[key]}
            case 5:
                other, name = random.choice(places)
                parent[key] = json.loads(json.dumps(other[name]))
            case 6:
                if isinstance(parent, dict):
                    parent[random.choice(("x", key.upper(), "model_cfg", "id2label", ""))] = random.choice(VALUES)
                else:
                    parent.append(random.choice(VALUES))
        value = json.loads(json.dumps(value))
    return value


def json_text(random: random.Random, value: Any) -> bytes:
    """A JSON text of a mutated value; now and then with a token that no writer writes in a value's place."""
    text = json.dumps(json_value(random, value))
    if random.random() < 0.1:
        marker = json.dumps("<raw>")
        changed = json.loads(text)
        if places := list(_places(changed)):
            parent, key = random.choice(places)
            parent[key] = "<raw>"
            text = json.dumps(changed).replace(marker, random.choice(RAW))
    return text.encode()


def _places(value: Any):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)


def scattered(random: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out or put in."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(damaged) or 1)
        damaged[at : at + random.randrange(4)] = random.randbytes(random.randrange(4))
    return bytes(damaged)


def safetensors(random: random.Random, data: bytes) -> bytes:
    if random.random() < 0.1:
        return scattered(random, data)
    length = int.from_bytes(data[:8], "little")
    text, values = json_text(random, json.loads(data[8 : 8 + length])), data[8 + length :]
    length = random.choice((len(text),) * 8 + (0, 2**63, len(text) + random.randint(-3, 3)))
    return struct.pack("<Q", max(length, 0)) + text + values[: random.choice((None,) * 8 + (len(values) // 2,))]


_NUMBERS = (0, 1, 2, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1)
_ZIP = {
    b"PK\x03\x04": "<4sHHHHHIIIHH",
    b"PK\x01\x02": "<4sHHHHHHIIIHHHHHII",
    b"PK\x05\x06": "<4sHHHHIIH",
    b"PK\x06\x06": "<4sQHHIIQQQQ",
}


def zip_fields(random: random.Random, data: bytes) -> bytes:
    """Fields of a zip file's headers and directory changed: sizes, offsets, checksums, methods, counts."""
    damaged = bytearray(data)
    found = [
        (at, form) for mark, form in _ZIP.items() for at in _all(data, mark) if at + struct.calcsize(form) <= len(data)
    ]
    for _ in range(random.choice((1, 1, 2))):
        at, form = random.choice(found)
        fields = list(struct.unpack_from(form, damaged, at))
        place = random.randrange(1, len(fields))
        most = 256 ** struct.calcsize(f"<{form[1:].replace('4s', '')[place - 1]}") - 1
        fields[place] = min(max(random.choice((*_NUMBERS, fields[place] + random.randint(-40, 40))), 0), most)
        struct.pack_into(form, damaged, at, *fields)
    return bytes(damaged)


def _all(data: bytes, mark: bytes):
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def zip_members(random: random.Random, data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """A zip file whose members are `change`d and their checksums with them; some left out, doubled or compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", random.choice((0, 0, 0, 8, 14))) as new:
        for name in old.namelist():
            if random.random() > 0.02:
                new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


def npz(random: random.Random, data: bytes) -> bytes:
    if random.random() < 0.3:
        return random.choice((scattered, zip_fields))(random, data)
    return zip_members(random, data, lambda name, array: _npy(random, array) if random.random() < 0.4 else array)


_DESCRIPTIONS = (
    "'<f4'",
    "'O'",
    "'|S0'",
    "'V2'",
    "'<U3'",
    "'<f2'",
    "'M8[s]'",
    "[('a', '<f4')]",
    "('<f4', (9999, 9999))",
    "'f4,f4'",
    "1",
    "'x'",
)
_SHAPES = (
    "()",
    "(0,)",
    "(-1,)",
    "(3,)",
    "(2**70,)",
    "(1,) * 99",
    "(4, 3)",
    "(True,)",
    "(10**18, 10**18)",
    "(9" + "9" * 4500 + ",)",
    "3",
    "(" * 500,
)


def _npy(random: random.Random, array: bytes) -> bytes:
    if array[:6] != b"\x93NUMPY":
        return array
    length = int.from_bytes(array[8:10], "little")
    text = array[10 : 10 + length].decode("latin1")
    descr, fortran, shape = random.choice(_DESCRIPTIONS), random.choice(("True", "False", "0")), random.choice(_SHAPES)
    text = random.choice((
        text.replace("False", fortran), scattered(random, text.encode("latin1")).decode("latin1"), text.replace("shape", "shap"),
        f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {text[text.index('(') : text.index(')') + 1]}}}",
        f"{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': {shape}}}",
    ))  # fmt: skip
    code = text.encode("latin1", "replace")[:65535]
    version = random.choice((b"\x01\x00",) * 6 + (b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    return b"\x93NUMPY" + version + len(code).to_bytes(2, "little") + code + array[10 + length :]


def pickle(random: random.Random, code: bytes) -> bytes:
    """Opcodes left out, doubled, exchanged, or with other arguments; the others are as they were."""
    starts = [at for _, _, at in pickletools.genops(code)]
    parts = [code[start:end] for start, end in zip(starts, [*starts[1:], len(code)], strict=True)]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(parts))
        match random.randrange(6):
            case 0:
                parts[at] = b""
            case 1:
                parts[at] *= random.choice((2, 3, 50))
            case 2:
                other = random.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = random.choice(_OPCODES)
            case 4:
                parts[at] += random.choice(_OPCODES)
            case 5:
                parts[at] = scattered(random, parts[at]) if parts[at] else b"."
    return b"".join(parts)


_OPCODES = (
    *(bytes([code]) for code in b"().012N]}abdeltsuQR\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"), b"K\x00", b"K\x05", b"M\xff\xff", b"J\xff\xff\xff\xff",
    b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\x09" + b"\x00" * 8 + b"\x01", b"\x8a\xff" + b"\x7f" * 255, b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20,
    b"L" + b"9" * 5000 + b"L\n", b"G\x7f\xf8" + bytes(6), b"q\x00", b"h\x00", b"h\x01", b"h\x05", b"r\xff\xff\xff\xff", b"p99999999999\n", b"X\x01\x00\x00\x00a",
    b"X\x00\x20\x00\x00" + b"k" * 8192, b"X\xff\xff\xff\xff", b"X\x03\x00\x00\x00\xed\xa0\x80", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cos\nsystem\n", b"cargparse\nNamespace\n", b"V\\ud800\n", b"S'x'\n",
)  # fmt: skip


def torch_zip(random: random.Random, data: bytes) -> bytes:
    if random.random() < 0.3:
        return random.choice((scattered, zip_fields))(random, data)

    def change(name: str, member: bytes) -> bytes:
        if name.endswith("data.pkl"):
            return pickle(random, member)
        return scattered(random, member) if member and random.random() < 0.05 else member

    return zip_members(random, data, change)


def torch_legacy(random: random.Random, data: bytes) -> bytes:
    """Any of the five pickles, or the storages' lengths behind them."""
    if random.random() < 0.1:
        return scattered(random, data)
    stream, ends = io.BytesIO(data), [0]
    for _ in range(5):
        list(pickletools.genops(stream))
        ends.append(stream.tell())
    parts = [data[start:end] for start, end in itertools.pairwise(ends)]
    at = random.choice((0, 1, 2, 3, 3, 3, 3, 4, 4, 5))
    if at == 5:
        count = random.choice((0, 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little")
        return b"".join(parts) + count + data[ends[-1] + 8 :]
    parts[at] = pickle(random, parts[at])
    return b"".join(parts) + data[ends[-1] :]
