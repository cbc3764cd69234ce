"""What Linux tells of processes: children, sessions, memory. A process that is gone has none of these."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


def descendants(pid: int) -> Iterator[int]:
    """Process ids of the children of a process and of theirs."""
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from descendants(child)


def all_processes() -> Iterator[int]:
    return (int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit())


def session(pid: int) -> int:
    """The session that a process belongs to; 0 where it is gone or only waits to be reaped."""
    with contextlib.suppress(OSError):
        state, _, _, number = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        return 0 if state in "ZX" else int(number)
    return 0


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def resident(pid: int) -> int:
    """Bytes of memory of a process; pages that several share count in each."""
    with contextlib.suppress(OSError, IndexError):
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
