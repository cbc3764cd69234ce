"""Files that operating systems leave in folders of pictures: skipped everywhere, counted, and reported once."""

import sys
from collections import Counter

from vision_jax.files import printable

# In addition to hidden files, such as .DS_Store and ._x.jpg, in which macOS keeps a file's extra data.
_JUNK = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "icon\r", "@eadir", "lost+found", "__pycache__"),
}
_told: set[str] = set()


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


class Skipped:
    """Counts what is skipped in a folder."""

    def __init__(self, folder: str):
        self._folder, self._names = folder, Counter()

    def passes(self, name: str) -> bool:
        """Whether a file or folder of that name is not junk."""
        if is_junk(name):
            self._names["._*" if name.startswith("._") else name] += 1
            return False
        return True

    def tell(self) -> None:
        """Reports on stderr, once per process, what was skipped."""
        if not self._names:
            return
        names = ", ".join(printable(name) for name, _ in self._names.most_common(3))
        more = ", ..." if len(self._names) > 3 else ""
        line = f"{printable(self._folder)}: passed over {self._names.total()} hidden or system files ({names}{more})"
        if line not in _told:
            _told.add(line)
            print(f"{line}\n", end="", file=sys.stderr, flush=True)
