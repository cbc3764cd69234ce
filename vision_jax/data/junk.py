"""What systems leave in folders of pictures: passed over everywhere, counted, and said once."""

import sys
from collections import Counter

from vision_jax.files import printable

# Besides hidden files, such as .DS_Store and ._x.jpg, which macOS writes where it cannot keep a file's other data.
_JUNK = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "icon\r", "@eadir", "lost+found", "__pycache__"),
}
_told: set[str] = set()


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


class Skipped:
    """Counts what is passed over in a folder."""

    def __init__(self, folder: str):
        self._folder, self._names = folder, Counter()

    def passes(self, name: str) -> bool:
        """Whether a file or folder of that name is no junk."""
        if is_junk(name):
            self._names["._*" if name.startswith("._") else name] += 1
            return False
        return True

    def tell(self) -> None:
        """Says on stderr, once in a process, what was passed over."""
        if not self._names:
            return
        names = ", ".join(printable(name) for name, _ in self._names.most_common(3))
        more = ", ..." if len(self._names) > 3 else ""
        line = f"{printable(self._folder)}: passed over {self._names.total()} hidden or system files ({names}{more})"
        if line not in _told:
            _told.add(line)
            print(f"{line}\n", end="", file=sys.stderr, flush=True)
