"""Pictures that ask for too much; CASES of picture_cases gets them."""

import io
import os
import struct
import zlib

from picture_cases import case, chunk, png
from PIL import Image


def saved(size: tuple[int, int], format: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format, **options)
    return stream.getvalue()


for _what, _size, _kind in (
    ("PNG, 13,000 x 13,000 RGB", (13_000, 13_000), {}),
    ("PNG, 9,400 x 9,400 RGB", (9_400, 9_400), {}),
    ("PNG, 9,400 x 9,400 RGBA", (9_400, 9_400), {"color": 6}),
    ("PNG, 7,000 x 7,000 RGBA", (7_000, 7_000), {"color": 6}),
    ("PNG, 9,400 x 9,400 of 16-bit grey", (9_400, 9_400), {"depth": 16, "color": 0}),
    ("PNG, 7,000 x 7,000 of 16-bit grey", (7_000, 7_000), {"depth": 16, "color": 0}),
    ("PNG, 9,400 x 9,400 palette", (9_400, 9_400), {"color": 3}),
    ("PNG, 20,000 x 20,000 of one bit", (20_000, 20_000), {"depth": 1, "color": 0}),
    ("PNG, 2 x 2,000,000,000", (2, 10), {"claims": (2, 2_000_000_000)}),
    ("thin: 1 x 30,000", (30_000, 1), {}),
    ("thin: 30,000 x 1", (1, 30_000), {}),
    ("thin: 1 x 60,000,000", (60_000_000, 1), {}),
    ("thin: 60,000,000 x 1", (1, 60_000_000), {}),
    ("thin: 3 x 20,000,000", (20_000_000, 3), {}),
    ("a panorama of 16,382 x 3,628", (16_382, 3_628), {}),
):
    case("picture", _what)(lambda path, size=_size, kind=_kind: png(*size, **kind))


@case("picture", "PostScript under the name of a picture", "a.jpg")
def _(path):
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n"


@case("picture", "FITS under the name of a picture", "a.jpg")
def _(path):
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 9000", "NAXIS2  = 9000", "END"]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(100)


@case("picture", "no bytes")
def _(path):
    return b""


@case("picture", "PNG of 0 x 5")
def _(path):
    return png(1, 5, claims=(0, 5))


@case("picture", "a sparse file of 100 GB")
def _(path):
    path.write_bytes(png(4, 4))
    os.truncate(path, 100 * 10**9)


@case("picture", "a sparse PNG of 250 MiB")
def _(path):
    path.write_bytes(png(4, 4))
    os.truncate(path, 250 * 2**20)


@case("picture", "PNG of 2,000,000 empty chunks")
def _(path):
    return png(4, 4, before=chunk(b"abCd", b"") * 2_000_000)


@case("picture", "PNG whose data comes in 1,000,000 empty chunks")
def _(path):
    return png(4, 4, before=chunk(b"IDAT", b"") * 1_000_000)


@case("picture", "PNG with 300 texts that unpack to 1 MiB")
def _(path):
    return png(4, 4, before=chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**20 - 9))) * 300)


@case("picture", "PNG whose colour profile unpacks to 1 GB")
def _(path):
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(1000)) + packer.flush()
    return png(4, 4, before=chunk(b"iCCP", b"key\0\0" + data))


@case("picture", "JPEG, 9,400 x 9,400 baseline")
def _(path):
    return saved((9400, 9400), "JPEG", quality=20)


@case("picture", "JPEG, 9,400 x 9,400 progressive")
def _(path):
    return saved((9400, 9400), "JPEG", quality=20, progressive=True)


@case("picture", "JPEG, 6,500 x 6,500 progressive")
def _(path):
    return saved((6500, 6500), "JPEG", quality=20, progressive=True, subsampling=0)


@case("picture", "JPEG of 2,000 x 2,000 in 3,000 scans")
def _(path):
    whole = saved((2000, 2000), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 3000 + whole[-2:]


@case("picture", "JPEG with 100 MiB of junk between its segments")
def _(path):
    whole = saved((8, 8), "JPEG")
    return whole[:20] + bytes(100 * 2**20) + whole[20:]


@case("picture", "WebP, 9,400 x 9,400")
def _(path):
    return saved((9400, 9400), "WEBP", lossless=True, quality=0, method=0)


@case("picture", "WebP, 4,200 x 4,200")
def _(path):
    return saved((4200, 4200), "WEBP", "RGBA", lossless=True, quality=0, method=0)


@case("picture", "GIF of 3,000 frames")
def _(path):
    frames = [Image.new("P", (2, 2), i % 7) for i in range(3000)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@case("picture", "GIF, 65,535 x 65,535")
def _(path):
    whole = bytearray(saved((8, 8), "GIF"))
    struct.pack_into("<HH", whole, 6, 65535, 65535)
    return bytes(whole)


@case("picture", "GIF of 1,000,000 comments")
def _(path):
    whole = saved((8, 8), "GIF")
    at = whole.index(b",", 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13)
    return whole[:at] + b"!\xfe\x01a\0" * 1_000_000 + whole[at:]


@case("picture", "BMP of RLE4 runs, 9,400 x 9,400")
def _(path):
    head = struct.pack("<IiiHHIIiiII", 40, 9400, 9400, 1, 4, 2, 0, 0, 0, 16, 0) + bytes(64)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(head)) + head + b"\x02\x01" * 10_000_000


@case("picture", "PPM of digits with 500,000 comments", "a.ppm")
def _(path):
    return b"P3 100 100 255\n" + b"#\n" * 500_000


@case("picture", "PPM of digits, 8,000 x 8,000", "a.ppm")
def _(path):
    return b"P2 8000 8000 255\n" + b"1 " * 64_000_000


@case("picture", "PPM of 100 grey levels, 8,000 x 8,000", "a.ppm")
def _(path):
    return b"P5 8000 8000 100\n" + bytes(64_000_000)


def tiff(*entries: tuple[int, int, int, int], more: bytes = b"", next: int = 0) -> bytes:
    """A TIFF of one directory; entries: (tag, type, count, value), of which count of 0 stands for one number."""
    packed = b"".join(struct.pack("<HHII", tag, kind, count or 1, value) for tag, kind, count, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next) + more


def _grey(width: int, height: int, *entries) -> list[tuple[int, int, int, int]]:
    usual = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height}
    usual = {tag: (tag, 4, 0, value) for tag, value in usual.items()}
    return list((usual | {entry[0]: entry for entry in entries}).values())


@case("picture", "TIFF of 10,000,000 strips")
def _(path):
    return tiff(*_grey(100, 100, (273, 3, 10_000_000, 200), (278, 4, 0, 1)), more=bytes(20_000_200))


@case("picture", "TIFF whose 60,000 tags share 4 MiB")
def _(path):
    entries = [(tag, 7, 4 * 2**20, 8) for tag in range(1000, 61_000)]
    return tiff(*_grey(10, 10), *entries, more=bytes(5 * 2**20))


@case("picture", "TIFF of tiles of 60,000 x 30,000")
def _(path):
    packed = zlib.compress(bytes(50_000_000))
    base = _grey(100, 100, (259, 4, 0, 8), (322, 4, 0, 60_000), (323, 4, 0, 30_000))
    base = [entry for entry in base if entry[0] not in (273, 278, 279)]
    base += [(324, 4, 0, 1000), (325, 4, 0, len(packed))]
    return tiff(*base).ljust(1000, b"\0") + packed


@case("picture", "TIFF of one deflated strip, 9,400 x 9,400")
def _(path):
    packed = zlib.compress(bytes(9400 * 9400))
    return (
        tiff(*_grey(9400, 9400, (259, 4, 0, 8), (273, 4, 0, 1000), (279, 4, 0, len(packed)))).ljust(1000, b"\0")
        + packed
    )


@case("picture", "TIFF whose directory follows itself")
def _(path):
    return tiff(*_grey(10, 10), next=8, more=bytes(200))


@case("picture", "TIFF of 20,000 directories")
def _(path):
    one = tiff(*_grey(10, 10))[8:]
    at, parts = 8, []
    for _ in range(20_000):
        at += len(one)
        parts.append(one[:-4] + struct.pack("<I", at))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts) + one


@case("picture", "TIFF, damaged")
def _(path):
    whole = bytearray(saved((64, 64), "TIFF", compression="tiff_deflate"))
    whole[20:40] = b"\xff" * 20
    return bytes(whole)
