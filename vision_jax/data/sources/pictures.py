"""The picture files that a user names, as a source without labels."""

import os
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from vision_jax.data.decoding import SUFFIXES, UNREAD, read_picture
from vision_jax.data.junk import Skipped
from vision_jax.errors import ConfigError
from vision_jax.files import nearest_path, printable, user_path


class Pictures:
    """The named files, whatever their suffix, and all files with picture suffixes in named folders, at any depth, sorted.

    Hidden files and others that systems leave are skipped. Links to folders are not followed, and folders that cannot
    be listed are named on stderr. Raises ConfigError naming what does not exist, or if there is no picture at all; `what`
    begins the message.
    """

    def __init__(self, names: Sequence[str], what: str = "IMAGE"):
        self.paths: list[pathlib.Path] = []
        for path in map(user_path, names):
            if path.is_dir():
                self.paths += sorted(map(pathlib.Path, _below(str(path))))
            elif path.is_file():
                self.paths.append(path)
            else:
                hint = nearest_path(path)
                raise ConfigError(f"{what}: there is neither a file nor a folder '{printable(path)}'{hint}")
        if not self.paths:
            searched = printable(", ".join(names))
            raise ConfigError(f"{what}: there are no pictures ({', '.join(SUFFIXES)}) in {searched}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": read_picture(self.paths[index]), "name": str(self.paths[index])}


def _below(folder: str) -> Iterator[str]:
    """The pictures in a folder and below; without recursion, since folders may be nested deeper than Python's stack."""
    folders, skipped, unread = [folder], Skipped(folder), Counter()
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if not skipped.passes(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.lower().endswith(SUFFIXES):
                        yield entry.path
                    elif entry.name.lower().endswith(UNREAD):
                        unread[os.path.splitext(entry.name)[1].lower()] += 1
        except OSError as error:
            print(f"skipped folder {printable(error.filename)}: {error.strerror}", file=sys.stderr, flush=True)
    skipped.tell()
    for suffix, count in unread.items():
        told = f"{printable(folder)}: skipped {count} {suffix}, a format that is not read here: convert to JPEG or PNG"
        print(told, file=sys.stderr, flush=True)
