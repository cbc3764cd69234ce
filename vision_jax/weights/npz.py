"""numpy's .npz: a zip file with one array per member. What needs pickle is refused."""

import io
import math

import numpy as np

from vision_jax.files import printable
from vision_jax.weights.tensors import DTYPES, Tensor, Tensors, check_count, checked_shape, collected
from vision_jax.weights.zip_archive import ZipArchive

_SUFFIX = ".npy"
_LONGEST_HEADER = 10_000  # bytes; numpy's own limit
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_npz(archive: ZipArchive) -> bool:
    return any(name.endswith(_SUFFIX) for name in archive.sizes)


def open_npz(archive: ZipArchive) -> Tensors:
    """The arrays by name, such as "opt/target/cls". Raises ConfigError."""
    names = [name for name in archive.sizes if name.endswith(_SUFFIX)]
    check_count(archive.file, len(names))
    return collected(archive.file, ((name.removesuffix(_SUFFIX), _array(archive, name)) for name in names))


def _array(archive: ZipArchive, name: str) -> Tensor:
    start, shown = io.BytesIO(archive.head(name, _LONGEST_HEADER)), printable(name)
    with archive.file.parsing(f"the header of '{shown}'"):
        version = np.lib.format.read_magic(start)
        if version not in _HEADERS:
            raise archive.file.error(f"'{shown}' is a structured array, which is not read")
        shape, is_fortran, dtype = _HEADERS[version](start, max_header_size=_LONGEST_HEADER)
        shape = checked_shape(shape, dtype)
    if dtype.hasobject:
        raise archive.file.error(f"'{shown}' holds pickled Python objects, which are not read")
    if dtype == np.dtype("V2"):  # how numpy writes dtypes that it does not know; big_vision's is always bfloat16
        dtype = DTYPES["bfloat16"]
    elif dtype.kind == "V":
        raise archive.file.error(f"'{shown}' has the dtype {printable(dtype)}, which is not read")
    offset, needed = start.tell(), math.prod(shape) * dtype.itemsize
    if offset + needed != archive.sizes[name]:
        raise archive.file.error(
            f"damaged: '{shown}' has {archive.sizes[name] - offset} bytes, but {dtype}{list(shape)} has {needed}"
        )
    native = dtype if dtype.isnative else dtype.newbyteorder("=")

    def read() -> np.ndarray:
        data = archive.read(name)
        with archive.file.parsing(f"'{shown}'"):
            array = data[offset:].view(dtype).astype(native, copy=False)
            return array.reshape(shape, order="F" if is_fortran else "C")

    return Tensor(shape, native, read)
