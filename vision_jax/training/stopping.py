"""How a run responds to the signals that ask it to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax

from vision_jax.errors import Stopped
from vision_jax.signals import HEARD, heard
from vision_jax.training.distributed import stop_agreed

GRACE = 5.0  # seconds after which a start that is busy in native code, such as a compilation, is killed


class StopRequest(contextlib.AbstractContextManager):
    """While open, the first signal asks the run to stop, and a second one ends the process at once.

    At first, while the run starts, `Stopped` is raised wherever the program is. After `defer`, the signal waits until
    `reached` is called, except inside `at_once`. With several processes, JAX itself catches SIGTERM, Ctrl-C is turned
    into one, and all stop at the same step. Outside the main thread, the caller's own handlers stay.

    embedded: the process is a notebook's or a user's own, which no signal ends: a second one raises KeyboardInterrupt.
    """

    def __init__(self, embedded: bool = False):
        self.embedded = embedded
        self.number = 0  # of the signal received
        self._immediate = jax.process_count() == 1
        self._open, self._watch = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        if jax.process_count() > 1:
            before = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
            self._open.callback(signal.signal, signal.SIGINT, before)
            return self
        self._open.enter_context(heard(self._hear))
        if not self.embedded:
            self._watch.enter_context(_ended_in_native_code())
        return self

    def __exit__(self, *_) -> None:
        self._watch.close()
        self._open.close()

    def defer(self) -> None:
        """Call once there is work to save: from now on a signal waits."""
        self._watch.close()
        self._immediate = False
        self.check()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises `Stopped` wherever the program is, for example while it waits for data."""
        self._immediate = jax.process_count() == 1
        try:
            self.check()
            yield
        finally:
            self._immediate = False

    def check(self) -> None:
        """Raises Stopped if a signal was received."""
        if self.number:
            raise Stopped(self.number)

    def reached(self, step: int) -> int:
        """The signal's number if all processes are to stop after this step, else 0; call it at every step."""
        if jax.process_count() == 1:
            return self.number
        return int(signal.SIGTERM) if stop_agreed(step) else 0

    def _hear(self, number: int, again: bool) -> None:
        if self.number and not again and self.embedded:
            raise KeyboardInterrupt
        if self.number and not again:  # a second one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        if self._immediate:
            raise Stopped(number)
        if not again:
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step\n".encode())


@contextlib.contextmanager
def _ended_in_native_code() -> Iterator[None]:
    """Inside, a signal ends the process within `GRACE` seconds even in native code, where Python does not see it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    closed = threading.Event()

    def watch() -> None:
        while heard := os.read(read, 1):
            if heard[0] in HEARD and not closed.wait(GRACE):
                name = signal.Signals(heard[0]).name
                os.write(2, f"stopped by {name} before the first step: the same command starts again\n".encode())
                os._exit(128 + heard[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        signal.set_wakeup_fd(before)
        os.close(write)
        thread.join()
        os.close(read)
