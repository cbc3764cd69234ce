"""Image files in a folder with one sub-folder per class."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

from vision_jax.data.decoding import SUFFIXES, UNREAD, read_picture
from vision_jax.data.fingerprints import digest
from vision_jax.data.junk import Skipped
from vision_jax.errors import ConfigError
from vision_jax.files import is_folder, nearest_path, printable


class Folder:
    """The image files PATH/CLASS/FILE. Classes are numbered in natural order (`class2` before `class10`).

    Hidden files and others that systems leave (see `vision_jax.data.junk`) are skipped, and so is anything next to the
    class folders that is not an image. A file is opened only when its example is asked for.

    Raises:
        ConfigError: `path` is missing or not a folder of class folders, or a class folder is empty or holds anything
            other than image files.
    """

    def __init__(self, path: str):
        self._path = os.path.expanduser(path)
        skipped = Skipped(self._path)
        self.class_names = tuple(_classes(self._path, skipped))
        self.num_classes = len(self.class_names)
        self._files = []  # (label, file name)
        for label, name in enumerate(self.class_names):
            self._files += [(label, file) for file in _images(self._path, name, skipped)]
        skipped.tell()

    @property
    def labels(self) -> list[int]:
        return [label for label, _ in self._files]

    def fingerprint(self) -> dict[str, str]:
        """The number of files of each class, their bytes, and a digest of their names and sizes."""
        files: dict[str, list[str]] = {name: [] for name in self.class_names}
        for label, file in self._files:
            files[self.class_names[label]].append(file)

        def text(name: str) -> str:
            sizes = [_size(os.path.join(self._path, name, file)) for file in files[name]]
            names = digest(f"{file}\0{size}" for file, size in zip(files[name], sizes, strict=True))
            return f"{len(sizes)} files, {sum(sizes)} bytes ({names})"

        with ThreadPoolExecutor(16) as pool:  # the time goes into waiting for the file system
            return dict(zip(files, pool.map(text, files), strict=True))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        label, file = self._files[index]
        name = os.path.join(self._path, self.class_names[label], file)
        return {"image": read_picture(name), "label": label, "name": name}


_SPLITS = ("test", "val", "valid", "validation", "eval", "dev")
_EXPECTED = "expected a folder that holds a sub-folder of images for each class"


def check_folder(path: str) -> None:
    """Raises ConfigError if the folder of a source does not exist."""
    path = os.path.expanduser(path)
    if not path:
        raise ConfigError(f"data source 'folder:' names no folder; {_EXPECTED}")
    if not os.path.exists(path):
        raise ConfigError(f"data folder '{printable(path)}' does not exist{nearest_path(path) or f'; {_EXPECTED}'}")
    if not os.path.isdir(path):
        raise ConfigError(f"'{printable(path)}' is not a folder; {_EXPECTED}")


def _classes(path: str, skipped: Skipped) -> list[str]:
    check_folder(path)
    expected, entries = _EXPECTED, _visible(path, skipped)
    if not entries:
        raise ConfigError(f"data folder '{path}' is empty; {expected}")
    classes = [entry.name for entry in entries if is_folder(entry)]
    stray = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and not is_folder(entry)]
    if not classes or stray:
        what = (
            f"holds images outside of class folders, such as '{printable(stray[0])}'" if stray else "has no sub-folders"
        )
        raise ConfigError(f"data folder '{path}' {what}; {expected}")
    return sorted(classes, key=_natural)


def _images(path: str, name: str, skipped: Skipped) -> list[str]:
    folder = os.path.join(path, name)
    entries = _visible(folder, skipped)
    folders = sorted((entry.name for entry in entries if is_folder(entry)), key=_natural)
    if folders:
        has_files, siblings = len(entries) > len(folders), os.path.join(path, "train")
        inner = siblings if name.lower() in _SPLITS and os.path.isdir(siblings) else folder
        hint = "" if has_files else f"; did you mean 'folder:{printable(inner)}'?"
        raise ConfigError(
            f"class folder '{printable(folder)}' holds a folder '{printable(folders[0])}'; expected image files only{hint}"
        )
    files = sorted((entry.name for entry in entries), key=_natural)
    others = [file for file in files if not file.lower().endswith(SUFFIXES)]
    if unread := [file for file in others if file.lower().endswith(UNREAD)]:
        more = f" and {len(unread) - 1} more in its folder" if len(unread) > 1 else ""
        raise ConfigError(
            f"'{printable(os.path.join(folder, unread[0]))}'{more}: pictures of this kind are not read; convert them to JPEG or PNG"
        )
    if others:
        stray = printable(os.path.join(folder, others[0]))
        raise ConfigError(f"'{stray}' is not an image file; expected one of {', '.join(SUFFIXES)}")
    if not files:
        raise ConfigError(f"class folder '{printable(folder)}' is empty; expected image files")
    return files


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # deleted since it was listed, or a broken link: training counts it as broken


def _visible(folder: str, skipped: Skipped) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if skipped.passes(entry.name)]
    except OSError as error:
        raise ConfigError(f"cannot list data folder '{printable(folder)}': {error.strerror}") from None


def _natural(name: str) -> tuple:
    """A sort key that compares runs of digits as numbers."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name
