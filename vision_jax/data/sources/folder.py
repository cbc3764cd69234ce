"""Image files in a folder with a sub-folder for each class."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

from vision_jax.data.decoding import SUFFIXES, read_picture
from vision_jax.data.fingerprints import digest
from vision_jax.errors import ConfigError
from vision_jax.files import is_folder, printable


class Folder:
    """The image files of PATH/CLASS/FILE. Classes are numbered in natural order (`class2` before `class10`).

    Hidden files are passed over, and so is whatever lies beside the class folders and is no image. Files are opened
    when their example is asked for, and not before.

    Raises:
        ConfigError: `path` is missing or not a folder of class folders, or a class folder is empty or holds anything
            other than image files.
    """

    def __init__(self, path: str):
        self._path = os.path.expanduser(path)
        self.class_names = tuple(_classes(self._path))
        self.num_classes = len(self.class_names)
        self._files = []  # (label, file name)
        for label, name in enumerate(self.class_names):
            self._files += [(label, file) for file in _images(self._path, name)]

    @property
    def labels(self) -> list[int]:
        return [label for label, _ in self._files]

    def fingerprint(self) -> dict[str, str]:
        """Of every class: how many files, their bytes, and a digest of their names and sizes."""
        files: dict[str, list[str]] = {name: [] for name in self.class_names}
        for label, file in self._files:
            files[self.class_names[label]].append(file)

        def text(name: str) -> str:
            sizes = [_size(os.path.join(self._path, name, file)) for file in files[name]]
            names = digest(f"{file}\0{size}" for file, size in zip(files[name], sizes, strict=True))
            return f"{len(sizes)} files, {sum(sizes)} bytes ({names})"

        with ThreadPoolExecutor(16) as pool:  # what takes time is to wait for the file system
            return dict(zip(files, pool.map(text, files), strict=True))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        label, file = self._files[index]
        name = os.path.join(self._path, self.class_names[label], file)
        return {"image": read_picture(name), "label": label, "name": name}


def _classes(path: str) -> list[str]:
    expected = "expected a folder that holds a sub-folder of images for each class"
    if not path:
        raise ConfigError(f"data source 'folder:' names no folder; {expected}")
    if not os.path.exists(path):
        raise ConfigError(f"data folder '{path}' does not exist; {expected}")
    if not os.path.isdir(path):
        raise ConfigError(f"'{path}' is not a folder; {expected}")
    entries = _visible(path)
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


def _images(path: str, name: str) -> list[str]:
    folder = os.path.join(path, name)
    files = []
    for entry in _visible(folder):
        if is_folder(entry):
            hint = f"; did you mean 'folder:{printable(folder)}'?" if not files else ""
            raise ConfigError(
                f"class folder '{printable(folder)}' holds a folder '{printable(entry.name)}'; expected image files only{hint}"
            )
        if not entry.name.lower().endswith(SUFFIXES):
            raise ConfigError(f"'{printable(entry.path)}' is not an image file; expected one of {', '.join(SUFFIXES)}")
        files.append(entry.name)
    if not files:
        raise ConfigError(f"class folder '{printable(folder)}' is empty; expected image files")
    return sorted(files, key=_natural)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # gone since it was listed, or a link to nothing: training counts it as broken


def _visible(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"cannot list data folder '{printable(folder)}': {error.strerror}") from None


def _natural(name: str) -> tuple:
    """A sort key that compares runs of digits as numbers."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name
