"""The members of a zip file, read by ranges. numpy and torch keep them uncompressed."""

import zipfile
import zlib

import numpy as np

from vision_jax.weights.tensors import File, shown

LOCAL_HEADER = 30  # bytes, before the name and the extra field (APPNOTE.TXT, 4.3.7)


class ZipArchive:
    """sizes: member name -> its size in bytes. Raises ConfigError where the file is no whole zip file."""

    def __init__(self, file: File):
        self.file = file
        with file.parsing("the zip file's directory"):
            self._zip = zipfile.ZipFile(file.path)
            self._members = {info.filename: info for info in self._zip.infolist()}
            if len(self._members) < len(self._zip.infolist()):
                raise file.error("the zip file names a member twice")
        self.sizes = {name: info.file_size for name, info in self._members.items()}

    def read(self, name: str, start: int = 0, size: int | None = None) -> np.ndarray:
        """uint8[size], by default up to the member's end. Raises ConfigError."""
        member = self._members[name]
        size = member.file_size - start if size is None else size
        if start + size > member.file_size:
            raise self.file.error(f"'{shown(name)}' has {member.file_size} bytes, and byte {start + size} is needed")
        with self.file.parsing(f"'{shown(name)}'"):
            if member.flag_bits & 1:
                raise self.file.error("the zip file is encrypted")
            if member.compress_type == zipfile.ZIP_STORED:
                return self.file.read(self._offset(member) + start, size)
            data = np.empty(size, np.uint8)
            with self._zip.open(member) as stream:
                stream.seek(start)
                view = memoryview(data)
                while view and (count := stream.readinto(view[: 2**20])):
                    view = view[count:]
            if view:
                raise self.file.error(f"'{shown(name)}' is shorter than the zip file's directory says")
            return data

    def check(self, name: str, data: np.ndarray) -> None:
        """Raises ConfigError where `data`, all of a member, has not the checksum that the zip file has for it."""
        if zlib.crc32(data) != self._members[name].CRC:
            raise self.file.error(f"damaged: '{shown(name)}' has not the checksum that the file has for it")

    def _offset(self, member: zipfile.ZipInfo) -> int:
        """Where a stored member's data begins: its local header may have another extra field than the directory."""
        header = self.file.read(member.header_offset, LOCAL_HEADER).tobytes()
        if header[:4] != b"PK\x03\x04" or member.compress_size != member.file_size:
            raise self.file.error(f"damaged: '{shown(member.filename)}' is not where the zip file's directory says")
        lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
        return member.header_offset + LOCAL_HEADER + sum(lengths)
