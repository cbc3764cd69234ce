"""Pickles of torch without end, and tensors that are more than their storage."""

import struct

from hand_made import Name, archive, legacy, pickled, tensor
from hostile_registry import MANY, WEIGHT, code, file, torch_pickle


@file(".pth: 1,000 tensors that share 40 MB")
def _():
    count = 10**7
    root = {str(i): tensor("FloatStorage", "0", count, 0, (count,), (1,)) for i in range(1000)}
    return archive(pickled(root), {"0": bytes(4 * count)})


@file(".pth: 20,000 tensors of two numbers, 40 MB apart")
def _():
    count = 10**7
    root = {str(i): tensor("FloatStorage", "0", count, 0, (2,), (count - 1,)) for i in range(20_000)}
    return archive(pickled(root), {"0": bytes(4 * count)})


@file(".pth: a shape of 400,000 sides")
def _():
    return archive(pickled({"w": tensor("FloatStorage", "0", 1, 0, (1,) * 400_000, (1,) * 400_000)}), {"0": bytes(4)})


@file(".pth: a shape of 65 sides")
def _():
    return archive(pickled({"w": tensor("FloatStorage", "0", 1, 0, (1,) * 65, (1,) * 65)}), {"0": bytes(4)})


for what, shape, strides, offset in (
    ("negative strides", (2,), (-1,), 1),
    ("a negative size", (-1,), (1,), 0),
    ("a negative offset", (1,), (1,), -1),
    ("sizes whose product is 2**64", (2**32, 2**32), (0, 0), 0),
    ("an offset of 2**63", (1,), (1,), 2**63),
    ("a stride of 2**63", (2,), (2**63,), 0),
):
    file(f".pth: {what}")(
        lambda shape=shape, strides=strides, offset=offset: archive(
            pickled({"w": tensor("FloatStorage", "0", 1, offset, shape, strides)}), {"0": bytes(4)}
        )
    )


@torch_pickle("1.6 million empty tensors")
def _():
    call = code(Name("torch._utils", "_rebuild_tensor_v2")) + b"q\x00" + code(WEIGHT.arguments) + b"q\x01R"
    return b"}(" + code("w") + call + b"".join(b"J%bh\x00h\x01R" % struct.pack("<i", i) for i in range(MANY)) + b"u"


@torch_pickle("a key of 10 MB at 1,000 places")
def _():
    key = b"X" + struct.pack("<I", 10**7) + b"k" * 10**7
    return key + b"q\x000" + b"}(" + b"".join(b"K\x01}h\x00" + code(WEIGHT) + b"s" for _ in range(1000)) + b"u"


@torch_pickle("a key of 900 characters at 400,000 places")
def _():
    inner = b"}(" + b"".join(b"J%bK\x01" % struct.pack("<i", i) for i in range(100_000)) + b"uq\x00"
    return inner + b"0}(" + b"".join(code(str(i) * 180) + b"h\x00" for i in range(4)) + code("w") + code(WEIGHT) + b"u"


def doubled(make: bytes, join: bytes) -> bytes:
    return make + b"q\x00" + b"".join(join % (i, i, i + 1) for i in range(200)) + b"q\xff"


@torch_pickle("a tuple of 2**200 leaves")
def _():
    return b"}(" + code("x") + doubled(b")", b"0h%ch%c\x86q%c") + code("w") + code(WEIGHT) + b"u"


@torch_pickle("a tuple of 2**200 leaves as a key")
def _():
    return b"}(" + doubled(b")", b"0h%ch%c\x86q%c") + b"K\x01" + code("w") + code(WEIGHT) + b"u"


@torch_pickle("a dict of 2**200 leaves")
def _():
    return doubled(b"}", b"0}(K\x00h%cK\x01h%cuq%c")


@torch_pickle("a list of 1,000 at 300,000 places")
def _():
    items = b"](" + b"K\x01" * 1000 + b"eq\x00"
    return (
        items
        + b"0}("
        + code("w")
        + code(WEIGHT)
        + b"".join(b"J%bh\x00" % struct.pack("<i", i) for i in range(300_000))
        + b"u"
    )


@torch_pickle("200,000 objects that copy a dict of 100,000")
def _():
    items = b"}(" + b"".join(b"J%bK\x01" % struct.pack("<i", i) for i in range(100_000)) + b"uq\x000"
    return items + b"](" + (b"cargparse\nNamespace\n)\x81h\x00b") * 200_000 + b"e"


@torch_pickle("200,000 calls that copy a dict of 100,000")
def _():
    items = b"}(" + b"".join(b"J%bK\x01" % struct.pack("<i", i) for i in range(100_000)) + b"u\x85q\x000"
    return items + b"ccollections\nCounter\nq\x010](" + b"h\x01h\x00R" * 200_000 + b"e"


@torch_pickle("300,000 keys of one hash")
def _():
    return (
        b"}("
        + b"".join(b"\x8a\x0b" + ((i + 1) * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(300_000))
        + b"u"
    )


@torch_pickle("300,000 places of the memo of one hash")
def _():
    return b"N" + b"".join(b"p%d\n" % ((i + 1) * (2**61 - 1)) for i in range(300_000))


@torch_pickle("a number of 5,000 digits")
def _():
    return b"}(" + code("w") + code(WEIGHT) + code("n") + b"L" + b"9" * 5000 + b"L\nu"


@torch_pickle("a number of 8 MB as a key")
def _():
    return b"}(\x8b" + struct.pack("<I", 2**23) + b"\x7f" * 2**23 + code(WEIGHT) + b"u"


@torch_pickle("a number of 255 bytes as a size")
def _():
    shape = b"\x8a\xff" + b"\x7f" * 255 + b"\x85"
    return (
        code(Name("torch._utils", "_rebuild_tensor_v2"))
        + b"("
        + code(WEIGHT.arguments[0])
        + b"K\x00"
        + shape
        + shape
        + b"tR"
    )


for what, step in (("tuples", b"\x85"), ("lists", b"]q\x00h\x00"), ("dicts", b"}q\x00K\x00h\x00"), ("marks", b"(")):
    torch_pickle(f"500,000 {what} in each other")(lambda step=step: code(WEIGHT) + step * 500_000)


@torch_pickle("a call of a call, 100,000 deep")
def _():
    call = code(Name("torch._tensor", "_rebuild_from_type_v2")) + b"q\x00(h\x00N" + code(WEIGHT.arguments) + b"tq\x01"
    return call + b"0h\x00h\x01" + b"q\x020(h\x00Nh\x02t" * 100_000 + b"R"


@torch_pickle("a name with escape codes")
def _():
    return code({"\x1b[2J\x1b[31mw\n": WEIGHT, "bad\x07": tensor("FloatStorage", "9\x1b", 1, 0, (1,), (1,))})


@file(".pth: an old file whose list of storages repeats one 300,000 times")
def _():
    data = legacy({"w": tensor("FloatStorage", "0", 0, 0, (0,), (1,))}, {"0": (0, bytes(8))})
    return data.replace(pickled(["0"]), b"\x80\x02](" + code("0") + b"q\x00" + b"h\x00" * 300_000 + b"e.") + bytes(
        8 * 300_000
    )


@file(".pth: an old file that ends in a text of 4 GB")
def _():
    return legacy(None, {}).replace(pickled(None), b"\x80\x02X\xff\xff\xff\xff", 1)
