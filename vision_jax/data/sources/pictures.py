"""The picture files that a user names, as a source without labels."""

import pathlib
from collections.abc import Sequence

from vision_jax.errors import ConfigError
from vision_jax.files import user_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Pictures:
    """Files, whatever they are called, and all in folders, to any depth, that are called like pictures, sorted.

    Raises ConfigError naming what does not exist, or where there is no picture at all; `what` begins the message.
    """

    def __init__(self, names: Sequence[str], what: str = "IMAGE"):
        self.paths: list[pathlib.Path] = []
        for path in map(user_path, names):
            if path.is_dir():
                self.paths += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            elif path.is_file():
                self.paths.append(path)
            else:
                raise ConfigError(f"{what}: there is neither a file nor a folder '{path}'")
        if not self.paths:
            raise ConfigError(f"{what}: there are none ({', '.join(SUFFIXES)}) in {', '.join(names)}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index].read_bytes(), "name": str(self.paths[index])}
