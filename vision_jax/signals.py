"""Signals that ask a command to stop: SIGTERM, as sent by schedulers, and Ctrl-C."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from vision_jax.errors import Stopped

HEARD = (signal.SIGTERM, signal.SIGINT)
_AGAIN = 0.05  # seconds


@contextlib.contextmanager
def heard(handler: Callable[[int, bool], None]) -> Iterator[None]:
    """Inside, a signal calls `handler(number, again)` in the main thread, where it may raise `Stopped`.

    If Python ignores the exception, as in a destructor or in JAX's work at a garbage collection, the signal is sent once
    more a moment later, with `again` True. Outside the main thread the caller's own handlers stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = threading.Event()

    def hear(number: int, _) -> None:
        again = ignored.is_set()
        ignored.clear()
        handler(number, again)

    def hook(unraisable) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            previous(unraisable)
            return
        ignored.set()
        threading.Timer(_AGAIN, os.kill, (os.getpid(), unraisable.exc_value.number)).start()

    previous, sys.unraisablehook = sys.unraisablehook, hook
    before = {number: signal.signal(number, hear) for number in HEARD}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        sys.unraisablehook = previous
