"""One writer: a work folder belongs to one run at a time, on any file system and wherever the run's processes are."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.files import printable

NAME = "lock"
HEARTBEAT = 10.0  # seconds between the owner's signs of life
SILENT = 60.0  # seconds without one before an owner on another machine counts as gone


class WriterLock(contextlib.AbstractContextManager):
    """Holds `workdir`/lock, creating it and its folder if needed. Raises ConfigError if another run holds it.

    Two locks in one: the kernel's `flock`, which ends with its owner in any case and reaches as far as the file system
    supports it, and the file's text with a heartbeat for where it does not. An owner on this machine is gone once `flock`
    says so; one on another machine, once the file's modification time has not changed for `SILENT` seconds.
    """

    def __init__(self, workdir: pathlib.Path, heartbeat: float = HEARTBEAT, silent: float = SILENT):
        self.path, self.heartbeat, self.silent = workdir / NAME, heartbeat, silent
        self.stopped = threading.Event()

    def __enter__(self) -> "WriterLock":
        workdir = self.path.parent
        try:
            self.made_folder = not workdir.exists()
            workdir.mkdir(parents=True, exist_ok=True)
            self.file = self._open()
            try:
                self._take()
            except BaseException:
                os.close(self.file)
                raise
        except OSError as error:
            raise ConfigError(f"cannot write the work folder {workdir}: {error.strerror}") from error
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.thread.join()
        if _read(self.path) == self.text:  # unless another run took this one to be gone and replaced the lock
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self.file)
        if self.made_folder:  # a failed start leaves nothing behind
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def _take(self) -> None:
        flocked = self._flock()
        while (owner := _read(self.path)) and not (flocked and owner.get("boot") == _boot()):
            if self._fell_silent(owner):
                break
            self._reopen()  # it has ended in the meantime
            flocked = self._flock()
        self._write()

    def _open(self) -> int:
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{self.path} is in the way of the work folder's lock: it is no regular file")
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _flock(self) -> bool:
        """Whether we hold the kernel's lock; False if the file system has none. Raises ConfigError if another run has."""
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _busy(self.path, _read(self.path)) from None
            except OSError:
                return False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.file), os.stat(self.path)):
                    return True
            self._reopen()  # its owner has just removed it

    def _reopen(self) -> None:
        before, self.file = self.file, self._open()
        os.close(before)

    def _fell_silent(self, owner: dict[str, Any]) -> bool:
        """Whether the owner gives no sign of life; False if it removes the lock. Raises ConfigError if it gives one."""
        print(
            f"{self.path}: {_who(owner)} may still write here: waiting for up to {self.silent:.0f} s for a sign of life",
            file=sys.stderr,
            flush=True,
        )
        before, end = self._signs(), time.monotonic() + self.silent
        while time.monotonic() < end:
            time.sleep(min(0.5, self.heartbeat))
            if not self.path.exists():
                return False
            if self._signs() != before:
                raise _busy(self.path, owner)
        return True

    def _signs(self) -> tuple[int, bytes]:
        return os.stat(self.path).st_mtime_ns, self.path.read_bytes()

    def _write(self) -> None:
        self.text = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "boot": _boot(),
        }
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, json.dumps(self.text).encode(), 0)
        os.fsync(self.file)

    def _beat(self) -> None:
        while not self.stopped.wait(self.heartbeat):
            with contextlib.suppress(OSError):
                os.utime(self.file)


def owner(workdir: pathlib.Path) -> dict[str, Any]:
    """Who trains in a work folder now, according to the lock: process, host and start time; {} if nobody does.

    Goes by signs of life, since trying the lock could make a starting run fail: one that was killed on another machine
    counts as alive for up to `SILENT` seconds.
    """
    path = workdir / NAME
    text = _read(path)
    try:
        silent = time.time() - path.stat().st_mtime
    except OSError:
        return {}
    return text if silent < SILENT and not _is_gone(text) else {}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner is known to be a process of this machine that has ended."""
    if owner.get("boot") != _boot() or owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(owner["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError, OverflowError):  # for example a process of another user
        pass
    return False


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The contents of a lock file; {} if it is empty, as between its creation and the first write."""
    try:
        text = json.loads(path.read_bytes()[:4096])
    except (OSError, ValueError):
        return {}
    return text if isinstance(text, dict) else {}


def _busy(path: pathlib.Path, owner: dict[str, Any]) -> ConfigError:
    return ConfigError(
        f"{path.parent} is in use by {_who(owner)}: wait for it, stop it, or take another --workdir ({path.name} is its lock)"
    )


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run that is just starting"
    process, host, started = (printable(owner.get(key, "unknown"), 60) for key in ("process", "host", "started"))
    return f"process {process} on host {host}, started {started}"


def _boot() -> str:
    """Identifies one boot of this machine: processes with the same value share a kernel and its locks."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()
