"""What Orbax prints where reading or writing fails, of which nothing helps: the run itself says it in one line."""

import contextlib
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Iterator

SETTLING = 0.5  # seconds within which reads and writes that a failure cut off have ended, in threads of their own


@contextlib.contextmanager
def without_orbax_noise() -> Iterator[None]:
    """Inside, Orbax neither logs a failure, which it does five times with tracebacks, nor what its coroutines end in."""
    loggers, previous = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook

    def hook(unraisable) -> None:
        if not _is_of_orbax(unraisable):
            previous(unraisable)

    for logger in loggers:
        logger.addFilter(_not_of_orbax)
    sys.unraisablehook = hook
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_not_of_orbax)
        sys.unraisablehook = previous


def settle() -> None:
    """Waits for what a failure of Orbax's cut off, so that it ends inside `without_orbax_noise`."""
    gc.collect()
    time.sleep(SETTLING)
    gc.collect()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    said = (
        record.getMessage() if record.name == "asyncio" else record.pathname
    )  # of a task asyncio tells what it awaits
    return "orbax" not in said and "tensorstore" not in said


def _is_of_orbax(unraisable) -> bool:
    code = getattr(unraisable.object, "cr_code", None) if inspect.iscoroutine(unraisable.object) else None
    return "Event loop is closed" in str(unraisable.exc_value) or (code is not None and "orbax" in code.co_filename)
