"""Zip files, of torch and of numpy, that inflate, overlap, lie about their members or hold them damaged."""

import io
import struct
import zlib

import numpy as np
from hand_made import archive, npz, pickled, tensor
from hostile_registry import MANY, WEIGHT, bomb, file, npy, stored, zipped

SIZE = 4 * 2**30 - 2**24  # the most without zip64


@file(".pth: a storage that inflates to 4 GB")
def _():
    root = pickled({"w": tensor("FloatStorage", "0", SIZE // 4, 0, (SIZE // 4,), (1,))})
    return zipped(stored("a/data.pkl", root), ("a/data/0", bomb(SIZE), SIZE, 8, 1))


@file(".pth: a pickle that inflates to 4 GB")
def _():
    return zipped(("a/data.pkl", bomb(SIZE), SIZE, 8, 1))


@file(".pth: a byte order that inflates to 4 GB")
def _():
    return zipped(stored("a/data.pkl", pickled({"w": WEIGHT})), ("a/byteorder", bomb(SIZE), SIZE, 8, 1))


@file(".pth: 2,000 tensors in a storage that inflates to 400 MB")
def _():
    size = 25 * 2**24
    root = {str(i): tensor("FloatStorage", "0", size // 4, size // 4 - 1, (1,), (1,)) for i in range(2000)}
    return zipped(stored("a/data.pkl", pickled(root)), ("a/data/0", bomb(size), size, 8, 1))


@file(".npz: an array that inflates to 4 GB")
def _():
    header = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({SIZE},)}}\n")
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = block.compress(header) + block.flush(zlib.Z_FULL_FLUSH) + bomb(SIZE)
    return zipped(("w.npy", data, SIZE + len(header), 8, 1))


@file(".npz: inflates to more than it says")
def _():
    header = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9,)}\n")
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = block.compress(header) + block.flush(zlib.Z_FULL_FLUSH) + bomb(SIZE)
    return zipped(("w.npy", data, 9 + len(header), 8, 1))


@file(".pth: a member whose checksum is wrong")
def _():
    return archive(pickled({"w": WEIGHT}), {"0": b"abcd"}).replace(b"abcd", b"abce")


@file(".pth: a member read in parts whose checksum is wrong")
def _():
    root = {"a": tensor("FloatStorage", "0", 2, 0, (1,), (1,)), "b": tensor("FloatStorage", "0", 2, 1, (1,), (1,))}
    return archive(pickled(root), {"0": b"abcdefgh"}).replace(b"abcdefgh", b"abcdefgi")


@file(".pth: a pickle whose checksum is wrong")
def _():
    return archive(pickled({"w": WEIGHT, "note": "abcd"}), {"0": bytes(4)}).replace(b"abcd", b"abce")


@file(".pth: a member twice")
def _():
    return zipped(
        stored("a/data.pkl", pickled({"w": WEIGHT})), stored("a/data/0", bytes(4)), stored("a/data/0", bytes(4))
    )


@file(".npz: 60,000 members at one place")
def _():
    array = np.lib.format.header_data_from_array_1_0(np.zeros(10**6, np.uint8))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, array)
    data = stream.getvalue() + bytes(10**6)
    one = zipped(stored("00000.npy", data))
    start = one.index(b"PK\x01\x02")
    entry = one[start : one.index(b"PK\x05\x06")]
    directory = b"".join(entry.replace(b"00000", b"%05d" % i) for i in range(60_000))
    return (
        one[:start]
        + directory
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 60_000, 60_000, len(directory), start, 0)
    )


@file(".npz: a member beyond the file's end")
def _():
    data = bytearray(npz({"w": np.zeros(3)}))
    at = data.index(b"PK\x01\x02")
    data[at + 42 : at + 46] = struct.pack("<I", 2**31)
    return bytes(data)


@file(".npz: zip64's sizes of 2**63")
def _():
    data = npz({"w": np.zeros(3)})
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = bytearray(data[at:end])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", 20)
    entry[46 + 5 :] = struct.pack("<HHQQ", 1, 16, 2**63, 2**63)
    tail = bytearray(data[end:])
    tail[12:16] = struct.pack("<I", len(entry))
    return data[:at] + bytes(entry) + bytes(tail)


@file(".npz: a directory of 1.6 million members")
def _():
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHII", 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%08d" % i for i in range(MANY))
    return (
        b"PK\x03\x04"
        + bytes(26)
        + directory
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, len(directory), 30, 0)
    )
