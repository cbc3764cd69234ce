"""Headers of .npz and of .safetensors that nest, count or lie without end."""

import io
import json
import struct
import zipfile

import numpy as np
from hand_made import npz, safetensors
from hostile_registry import MANY, entry, file, npy, stored, zipped


@file(".npz: 100,000 empty arrays")
def _():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new:
        data = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}\n")
        for i in range(100_000):
            new.writestr(f"{i}.npy", data)
    return stream.getvalue()


@file(".npz: an array of Python objects")
def _():
    return npz({"w": np.array([{"a": 1}], object)})


for what, header in (
    ("a header nested 9,000 deep", "(" * 9000 + ")" * 9000),
    ("a header of 60 kB", "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 30_000 + ")}"),
    ("a shape of 3,000 sides", "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 3000 + ")}"),
    ("a size of 5,000 digits", "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
    (
        "two sizes of 4,000 digits",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + ("9" * 4000 + ",") * 2 + ")}",
    ),
    ("a negative size", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}"),
    (
        "a shape of 2**80 in Fortran's order",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1099511627776, 1099511627776)}",
    ),
    ("items of 10**18 bytes", "{'descr': '|S1000000000000000000', 'fortran_order': False, 'shape': (0,)}"),
    ("items without bytes", "{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}"),
):
    file(f".npz: {what}")(lambda header=header: zipped(stored("w.npy", npy(header))))


for what, header in (
    ("a shape of 400,000 sides", {"w": entry([1] * 400_000)}),
    ("a shape of 65 sides", {"w": entry([1] * 65)}),
    ("a size of 2**63", {"w": entry([2**63, 2**63, 0], end=0)}),
    ("sizes that are true and 1.0", {"w": entry([True, 1.0])}),
    ("offsets out of order", {"w": entry(), "v": entry(start=2, end=6)}),
    ("offsets out of range", {"w": entry(start=10**15, end=10**15 + 4)}),
    ("a dtype that is a list", {"w": entry(dtype=[1])}),
    ("a tensor that is a list", {"w": [1, 2]}),
    ("a name of escape codes", {"\x1b[2J\x1b[31m": entry(), "v": entry(start=9, end=13)}),
    ("a name of 7 MB", {"model." * 1_200_000 + "w": entry()}),
    ("a header nested 100,000 deep", b"[" * 100_000 + b"]" * 100_000),
    ("a header nested in objects, 100,000 deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ("a name twice", b'{"w":' + json.dumps(entry()).encode() + b', "w":' + json.dumps(entry()).encode() + b"}"),
    ("a number of 5,000 digits", b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
    (
        "sizes of 4,000 digits",
        b'{"w":{"dtype":"F32","shape":[' + b"9" * 4000 + b"," + b"9" * 4000 + b'],"data_offsets":[0,4]}}',
    ),
    ("NaN for a size", b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}'),
    ("a header that is no UTF-8", b'{"\xff":1}'),
):
    file(f".safetensors: {what}")(lambda header=header: safetensors(header, bytes(4)))


@file(".safetensors: 1.6 million empty tensors")
def _():
    return safetensors(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(MANY)) + b"}"
    )


@file(".safetensors: as many empty tensors as its header may hold")
def _():
    return safetensors(
        b"{" + b",".join(b'"%d":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}' % i for i in range(120_000)) + b"}"
    )


@file(".safetensors: a header of 2**62 bytes")
def _():
    return struct.pack("<Q", 2**62) + b"{}"
