"""The members of a zip file, read by ranges. numpy and torch keep them uncompressed."""

import itertools
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from vision_jax import limits
from vision_jax.files import printable
from vision_jax.weights.tensors import CHUNK, File

LOCAL_HEADER = 30  # bytes, before the name and the extra field (APPNOTE.TXT, 4.3.7)


class ZipArchive:
    """sizes: {member name: size in bytes}. Raises ConfigError if the file is not a complete zip file."""

    def __init__(self, file: File):
        self.file, self._checked = file, set()
        with file.open() as stream, file.parsing("the zip file's directory"):
            members = zipfile.ZipFile(_OfDirectory(stream)).infolist()
        self._members = {member.filename: member for member in members}
        if len(self._members) < len(members):
            raise file.error("the zip file names a member twice")
        in_place = sorted(members, key=lambda member: member.header_offset)
        for member, after in itertools.zip_longest(in_place, in_place[1:]):
            end = member.header_offset + LOCAL_HEADER + member.compress_size
            if end > (after.header_offset if after else file.size):
                raise file.error(f"damaged: '{printable(member.filename)}' reaches over its end in the zip file")
        self.sizes = {name: member.file_size for name, member in self._members.items()}
        # torch can leave checksums out; then all are 0.
        self._has_checksums = any(member.CRC for member in members)

    def read(self, name: str, start: int = 0, size: int | None = None) -> np.ndarray:
        """uint8[size], by default up to the member's end.

        Raises ConfigError, also if the member as a whole does not match its checksum in the zip file.
        """
        member = self._members[name]
        size = member.file_size - start if size is None else size
        if start + size > member.file_size:
            raise self._error(name, f"has {member.file_size} bytes, and byte {start + size} is needed")
        if member.compress_type != zipfile.ZIP_STORED:
            data = self._inflated(member, member.file_size)
            self._check(member, zlib.crc32(data))
            return data[start : start + size]
        offset = self._offset(member)
        if size < member.file_size and name not in self._checked:
            checksum = 0
            for chunk in self.file.chunks(offset, member.file_size):
                checksum = zlib.crc32(chunk, checksum)
            self._check(member, checksum)
            self._checked.add(name)
        data = self.file.read(offset + start, size)
        if size == member.file_size:
            self._check(member, zlib.crc32(data))
        return data

    def head(self, name: str, most: int) -> bytes:
        """The first bytes of a member, without a checksum test. Raises ConfigError."""
        member = self._members[name]
        size = min(member.file_size, most)
        if member.compress_type != zipfile.ZIP_STORED:
            return self._inflated(member, size).tobytes()
        return self.file.read(self._offset(member), size).tobytes()

    def cost(self, name: str, size: int) -> int:
        """Bytes of memory that reading `size` bytes of a member takes: a compressed one is inflated from its start."""
        member = self._members[name]
        return size if member.compress_type == zipfile.ZIP_STORED else max(size, member.file_size)

    def _check(self, member: zipfile.ZipInfo, checksum: int) -> None:
        if self._has_checksums and checksum != member.CRC:
            raise self.file.error(
                f"damaged: '{printable(member.filename)}' has not the checksum that the file has for it"
            )

    def _inflated(self, member: zipfile.ZipInfo, size: int) -> np.ndarray:
        """The first `size` bytes of a compressed member."""
        if member.compress_type != zipfile.ZIP_DEFLATED:
            raise self._error(member.filename, "is compressed in a way that is not read here")
        if size > limits.MEMORY + 2 * self.file.on_disk:
            raise self._error(member.filename, f"inflates to {size:,} bytes, too many for a file of its size")
        data, filled, inflater = np.empty(size, np.uint8), 0, zlib.decompressobj(-zlib.MAX_WBITS)
        with self.file.parsing(f"'{printable(member.filename)}'"):
            for chunk in self.file.chunks(self._offset(member), member.compress_size):
                while filled < size and (part := inflater.decompress(chunk, min(size - filled, CHUNK))):
                    data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                    filled, chunk = filled + len(part), inflater.unconsumed_tail
                if filled == size:
                    return data
        if filled < size:
            raise self._error(member.filename, "is shorter than the zip file's directory says")
        return data

    def _offset(self, member: zipfile.ZipInfo) -> int:
        """Where a member's data begins: the extra field of its local header may differ from the directory's."""
        header = self.file.read(member.header_offset, LOCAL_HEADER).tobytes()
        is_stored = member.compress_type == zipfile.ZIP_STORED
        if header[:4] != b"PK\x03\x04" or (is_stored and member.compress_size != member.file_size):
            raise self._error(member.filename, "is not where the zip file's directory says")
        if member.flag_bits & 1:
            raise self.file.error("the zip file is encrypted")
        lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
        return member.header_offset + LOCAL_HEADER + sum(lengths)

    def _error(self, name: str, problem: str):
        return self.file.error(f"damaged: '{printable(name)}' {problem}")


class _OfDirectory:
    """A stream for zipfile that limits how much is read at once: zipfile reads the directory whole, however long."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size > limits.ZIP_DIRECTORY:
            raise ValueError(f"it has {size:,} bytes, more than the {limits.ZIP_DIRECTORY:,} that are read")
        return self._stream.read(size)
