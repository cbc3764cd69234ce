"""What a person sees of a run: lines that stay (log.txt keeps them, too) and, on a terminal, a live one below them."""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

PLAIN_EVERY, LIVE_EVERY = 30.0, 0.2  # seconds
_STYLES = {"": "", "good": "\x1b[32m", "strong": "\x1b[1m", "quiet": "\x1b[2m"}


class Terminal:
    """Lines on a stream, in colour if it is a terminal and NO_COLOR is not set.

    Args:
        stream: where they go; None: nowhere, as in every process but the first.
        log: a file to which every line that stays is added; None: none. If it cannot be written, the run goes on.
        clock: seconds, monotonic.
    """

    def __init__(
        self, stream: TextIO | None, log: pathlib.Path | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self._stream, self._log, self._clock = stream, log, clock
        self._is_live = stream is not None and stream.isatty()
        self._has_colour = self._is_live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = 0  # of the live line now shown
        self._stayed = self._shown = clock()  # when a line that stays was last printed, and when any line was

    def say(self, text: str, style: str = "") -> None:
        """Prints lines that stay."""
        self._erase()
        self._write((f"{_STYLES[style]}{text}\x1b[0m" if style and self._has_colour else text) + "\n")
        self._keep(text)

    def is_due(self, stays: bool) -> bool:
        """Whether it is time for another line of progress; `stays` asks for one wherever lines stay."""
        now = self._clock()
        if self._stream is None:
            return False
        return stays or now - self._stayed >= PLAIN_EVERY or (self._is_live and now - self._shown >= LIVE_EVERY)

    def progress(self, parts: Sequence[str], stays: bool) -> None:
        """One line of `parts`: on a terminal in place, dropping the last parts until it fits; elsewhere a plain line.

        If `stays`, or half a minute after the last such line, log.txt keeps it.
        """
        text, self._shown = "  ".join(parts), self._clock()
        if stays or self._shown - self._stayed >= PLAIN_EVERY:
            self._keep(text)
            if not self._is_live:
                self._write(text + "\n")
        if self._is_live:
            self.live(_fitting(parts, shutil.get_terminal_size().columns - 1))

    def live(self, text: str) -> None:
        """Shows a line in place on a terminal, and nothing elsewhere."""
        if self._is_live:
            self._erase()
            self._write(text)
            self._width = len(text)

    @contextlib.contextmanager
    def timed(self, doing: str) -> Iterator[None]:
        """Prints what begins and, once it has ended, how long it took, in one line."""
        self._erase()
        self._write(f"{doing} ... ")
        start, took = self._clock(), "not finished"
        try:
            yield
            took = duration(self._clock() - start)
        finally:
            self._write(f"{took}\n")
            self._keep(f"{doing} ... {took}")

    def close(self) -> None:
        """Leaves a live line on the screen, so that later output starts below it."""
        if self._width:
            self._write("\n")
            self._width = 0

    def _erase(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()

    def _keep(self, text: str) -> None:
        self._stayed = self._clock()
        if self._log is not None and self._stream is not None:
            try:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")
            except OSError:
                self._log = None


def _fitting(parts: Sequence[str], width: int) -> str:
    """As many of the first `parts` as fit in a line; the first one is cut if even it does not fit."""
    text = parts[0][:width]  # a wrapped line could not be rewritten
    for part in parts[1:]:
        if len(text) + 2 + len(part) > width:
            break
        text += f"  {part}"
    return text


def number(value: float | None) -> str:
    """A measurement with a few digits."""
    if value is None:
        return "not finite"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
