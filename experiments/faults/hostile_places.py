"""What stands where a file is expected, and files with holes."""

import json
import os
import pathlib
import socket
import struct

from hand_made import archive, legacy, pickled
from hostile_registry import FILES, WEIGHT, entry, stored, zipped


def fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)


def device(path: pathlib.Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: pathlib.Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(folder)


def loop(path: pathlib.Path) -> None:
    path.symlink_to(path.name)


KINDS = {
    "a named pipe": fifo,
    "a device": device,
    "a socket": unix_socket,
    "a folder": pathlib.Path.mkdir,
    "a link to itself": loop,
}


def sparse(name: str, start: bytes, end: bytes = b"") -> None:
    def case(folder: pathlib.Path) -> pathlib.Path:
        with open(folder / "weights", "wb") as stream:
            stream.write(start)
            stream.seek(100 * 2**30 - len(end))
            stream.write(end)
            stream.truncate(100 * 2**30)
        return folder / "weights"

    FILES[name] = case


header_of_all = json.dumps({"w": entry([25 * 2**30 - 64], start=0, end=4 * (25 * 2**30 - 64))}).encode().ljust(248)
sparse(".safetensors: 100 GB without a byte on the disk", struct.pack("<Q", 248) + header_of_all)
sparse(
    ".pth: 100 GB without a byte on the disk, zip", archive(pickled({"w": WEIGHT})), zipped(stored("a/data.pkl", b"N."))
)
sparse(".pth: 100 GB without a byte on the disk, old", legacy({"w": WEIGHT}, {"0": (1, bytes(4))}))
sparse("100 GB of an index without a byte on the disk", b'{"weight_map": {')
