"""Pipes, sockets, devices and links that lead nowhere, where files are read; CASES of picture_cases gets them."""

import os
import pathlib
import socket
from collections.abc import Callable

from picture_cases import case, png


def special(kind: str, name: str, where: Callable = lambda path: path) -> None:
    """A pipe, a socket and a device where a file of the kind is read."""

    def pipe(path):
        os.mkfifo(where(path))

    def plug(path):
        here = os.getcwd()
        os.chdir(where(path).parent)  # a socket's path is short
        socket.socket(socket.AF_UNIX).bind(where(path).name)
        os.chdir(here)

    def device(path):
        where(path).symlink_to("/dev/zero")

    for what, make in (("a pipe", pipe), ("a socket", plug), ("a link to /dev/zero", device)):

        def made(path, make=make):
            where(path).parent.mkdir(parents=True, exist_ok=True)
            make(path)

        case(kind, f"{what} for a {kind}", name)(made)


special("picture", "a.png")
special("shard", "a.tar")
special("folder", "data", lambda path: path / "cat" / "a.png")
special("selection", "a.npz")
special("vocabulary", "bpe.txt.gz")
special("classes", "a.json")
special("templates", "a.json")
special("queries", "a.txt")
special("config", "a.py")


@case("picture", "a folder whose links lead round in a circle", "data")
def _(path):
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "c").symlink_to(path)
    (path / "a" / "loop").symlink_to("loop")
    (path / "a" / "x.png").write_bytes(png(4, 4))


@case("folder", "a folder whose links lead round in a circle: classes", "data")
def _(path):
    path.mkdir()
    (path / "loop").symlink_to("loop")
    (path / "all").symlink_to(path)


@case("folder", "names of escape sequences, line ends and no UTF-8", "data")
def _(path):
    (path / "cat").mkdir(parents=True)
    for name in (b"\x1b[2J\x1b]0;x\x07.png", b"a\nerror: b.png", b"\xff\xfe.png"):
        pathlib.Path(os.fsdecode(os.fsencode(path / "cat") + b"/" + name)).write_bytes(b"")
