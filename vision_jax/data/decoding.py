"""Decodes pictures from untrusted bytes and arrays: few formats, and within bounds on memory and work.

Pillow stores three channels in four bytes per pixel. What its decoders need on top is estimated from the header, before
any pixel is decoded.
"""

import contextlib
import ctypes
import errno
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from vision_jax import limits
from vision_jax.errors import RunError
from vision_jax.files import printable, read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow has more, among them one that runs Ghostscript
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

# Formats that are not supported, by name and by first bytes.
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".cr2", ".nef", ".arw", ".dng", ".raw", ".ico")
_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
    b"avis": "AVIF",
}

BAND = 2**20  # pixels to cut out at a time

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # bytes per pixel; others: 4
_IN_PYTHON = ("ppm", "ppm_plain", "bmp_rle")  # Pillow's decoders that loop over pixels in Python
_STRIP_OFFSETS, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _ORIENTATION = 273, 278, 322, 323, 324, 274

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# BrokenImage already says what Pillow and libtiff would print about a bad file, or it is of no use to the reader.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
with contextlib.suppress(OSError, AttributeError):  # if Pillow hides its libtiff, it prints some extra lines
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class BrokenImage(ValueError):
    """Raised for what is not a picture, is incomplete, or needs more than the limits allow."""


def read_picture(path: str | os.PathLike) -> bytes:
    """The bytes of a picture file. Raises BrokenImage naming the file if it cannot be read or is too large."""
    try:
        return read_regular(path, limits.PICTURE_FILE_BYTES)
    except OSError as error:
        raise BrokenImage(f"cannot read '{printable(os.fspath(path))}': {reason(error)}") from None


def reason(error: OSError | BrokenImage) -> str:
    """Why an example is left out. Raises RunError if it is not to blame: memory or open files have run out."""
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        raise RunError(f"pictures can no longer be read: {error.strerror}") from error
    return printable(getattr(error, "strerror", None) or error, 400)


def decode(image: bytes | np.ndarray, memory: int = limits.PICTURE_MEMORY, turned: bool = False) -> Image.Image:
    """An RGB picture from an encoded file or from uint8[H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4].

    Grey, palette and CMYK pictures are converted, 16-bit grey is reduced to its high byte, and alpha is dropped. An
    animation gives its first picture. EXIF orientation is applied only on request: torchvision, TensorFlow, timm and
    open_clip do not apply it, and published accuracies are without it.

    Args:
        memory: bytes that decoding may take, by estimate.
        turned: whether to turn the picture by the orientation in its EXIF data.

    Raises:
        BrokenImage: the bytes are not a picture in `FORMATS`, end too early or need more than allowed, or the array is
            not supported.
    """
    if not isinstance(image, bytes):
        return _from_array(image)
    try:
        _check_bytes(image)
        picture = Image.open(_Stream(image), formats=FORMATS)
        _check_header(picture, image, memory, turned)
        picture.load()
        return as_turned(to_rgb(picture), orientation(picture)) if turned else to_rgb(picture)
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage(_kind(image) or "not an image in a known format") from None
    except Exception as error:  # decoders raise all kinds of errors
        raise BrokenImage(printable(f"{type(error).__name__}: {error}")) from None


def _kind(data: bytes) -> str:
    """What the bytes are, as far as known, if they are not a picture in `FORMATS`."""
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp" and (brand := _BRANDS.get(data[8:12])):
        return f"{brand}, whatever its name, which is not read here: convert it to JPEG or PNG"
    head = data[:200].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page: the download went wrong"
    return (
        "a pointer of Git LFS: fetch the file itself with `git lfs pull`"
        if head.startswith(b"version https://git-lfs")
        else ""
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a picture of any mode to RGB as `decode` does."""
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
        grey = Image.new("L", image.size)
        for top, band in bands(image):
            high = np.clip(np.asarray(band), 0, 2**16 - 1) >> 8
            grey.paste(Image.fromarray(high.astype(np.uint8)), (0, top))
        image = grey
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8: 1 is upright, and the default if a picture does not say."""
    try:
        found = picture.getexif().get(_ORIENTATION)
    except Exception:  # EXIF data is untrusted and can hold anything
        return 1
    return found if type(found) is int and found in _TURNS else 1


def as_turned(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture, which has that `orientation`, turned upright."""
    return picture if orientation == 1 else picture.transpose(_TURNS[orientation])


def bands(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> Iterator[tuple[int, Image.Image]]:
    """(first row within the box, picture) for bands of about `BAND` pixels, each as wide as `box`, which is (top, left,
    height, width) and by default the whole picture; so the box is never copied whole."""
    top, left, height, width = box or (0, 0, image.height, image.width)
    rows = max(BAND // width, 1)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        yield start, image.crop((left, top + start, left + width, top + stop))


def _from_array(array) -> Image.Image:
    shape = getattr(array, "shape", ())
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] > (4,):
        kind = f"{array.dtype}{list(shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise BrokenImage(f"a picture is the bytes of a file or uint8[H, W, 1, 3 or 4], got {kind}")
    if 0 in shape:
        raise BrokenImage("it has no pixels")
    return Image.fromarray(array[..., 0] if shape[2:] == (1,) else array).convert("RGB")


class _Stream(io.BytesIO):
    """Bytes with a limit on the number of reads: each junk byte, chunk or one-byte block costs Pillow microseconds."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > limits.PICTURE_READS:
            raise BrokenImage("it is made of too many small parts")
        return super().read(size)


def _check_bytes(data: bytes) -> None:
    """Raises BrokenImage for what must be caught before Pillow looks at a header."""
    if len(data) > limits.PICTURE_FILE_BYTES:
        raise BrokenImage(f"it has {len(data):,} bytes, more than the {limits.PICTURE_FILE_BYTES:,} that are read")
    if data[:2] in (b"P1", b"P2", b"P3") and data.count(b"#") > limits.PICTURE_COMMENTS:
        raise BrokenImage("it has too many comments")
    if data[:2] in (b"II", b"MM"):
        _check_tiff(data)


def _check_tiff(data: bytes) -> None:
    """Raises BrokenImage for too many strips or tiles: Pillow makes an object for each that a directory lists."""
    order = "<" if data[:2] == b"II" else ">"
    start, count, entry = ("Q", "Q", "HHQ8x") if b"+" in data[2:4] else ("L", "H", "HHL4x")
    at = 8 if start == "Q" else 4
    try:
        (first,) = struct.unpack_from(order + start, data, at)
        (entries,) = struct.unpack_from(order + count, data, first)
    except (struct.error, OverflowError):
        return  # Pillow will complain
    size = struct.calcsize(order + entry)
    first += struct.calcsize(order + count)
    for at in range(first, min(first + entries * size, len(data) - size + 1), size):
        tag, _, values = struct.unpack_from(order + entry, data, at)
        if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and values > limits.PICTURE_STRIPS:
            raise BrokenImage(f"it has {values:,} strips or tiles")


def _check_header(picture: Image.Image, data: bytes, memory: int, turned: bool) -> None:
    """Raises BrokenImage if decoding would take more memory or work than allowed."""
    pixels = picture.width * picture.height
    if not pixels:
        raise BrokenImage("it has no pixels")
    size = f"{picture.width:,} x {picture.height:,} pixels"
    if max(picture.size) > limits.PICTURE_SIDE:
        raise BrokenImage(f"{size}, more than the {limits.PICTURE_SIDE:,} a side that are read")
    needed = pixels * (_bytes_a_pixel(picture, data) + 4 * turned) + _tiff_buffers(picture)
    if needed > memory:
        raise BrokenImage(
            f"decoding its {size} takes about {needed >> 20:,} MiB, more than the {memory >> 20:,} of data.picture_memory"
        )
    if any(tile[0] in _IN_PYTHON for tile in picture.tile[:1]) and pixels > limits.PICTURE_SLOW_PIXELS:
        raise BrokenImage(f"{size}, of a kind that is decoded too slowly")
    if picture.format in ("JPEG", "MPO") and pixels * data.count(b"\xff\xda") > limits.PICTURE_SCANNED_PIXELS:
        raise BrokenImage(f"{size} in too many scans")


def _bytes_a_pixel(picture: Image.Image, data: bytes) -> int:
    """Bytes per pixel of the decoder's picture, Pillow's, and the one in RGB."""
    if picture.format == "WEBP":
        return 20  # measured: libwebp's own picture, two canvases, and what it returns
    needed = _STORED.get(picture.mode, 4) + (4 if picture.mode != "RGB" else 0)
    if picture.format in ("JPEG", "MPO") and not _is_one_scan(picture, data):
        needed += 2 * len(picture.getbands())  # all coefficients, which the scans refine
    if picture.format == "TIFF" and _ORIENTATION in picture.tag_v2:
        needed += _STORED.get(picture.mode, 4)  # Pillow turns it
    return needed


def _is_one_scan(picture: Image.Image, data: bytes) -> bool:
    """Whether a JPEG can be decoded row by row: its first scan holds the final values of all channels."""
    at = 2
    while re.match(rb"\xff[\xc0-\xcf\xdb-\xfe]", data[at : at + 2]):  # markers of segments
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
    is_whole = data[at : at + 2] == b"\xff\xda" and data[at + 4 : at + 5] == bytes([len(picture.getbands())])
    return is_whole and not picture.info.get("progressive")


def _tiff_buffers(picture: Image.Image) -> int:
    """Bytes of libtiff's buffers, one strip or tile as stored: up to eight bytes per pixel."""
    if picture.format != "TIFF" or picture.tile[0][0] != "libtiff":
        return 0
    tags = picture.tag_v2
    width, height = tags.get(_TILE_WIDTH, picture.width), tags.get(_TILE_LENGTH, picture.height)
    rows = tags.get(_ROWS_PER_STRIP, picture.height)
    if not all(isinstance(side, int) for side in (width, height, rows)):
        raise BrokenImage("its strips or tiles have no size")
    is_tiled = _TILE_WIDTH in tags or _TILE_LENGTH in tags
    return 8 * width * (height if is_tiled else min(rows, height))
