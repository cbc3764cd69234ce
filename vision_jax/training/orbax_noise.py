"""Silences what Orbax prints when reading or writing fails, none of which helps: the run itself reports it in one line."""

import contextlib
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Iterator

SETTLING = 0.5  # seconds in which reads and writes that a failure interrupted end in their own threads


@contextlib.contextmanager
def without_orbax_noise() -> Iterator[None]:
    """Inside, Orbax logs neither a failure (it does so five times, with tracebacks) nor its coroutines' final errors."""
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
    """Waits for what an Orbax failure interrupted, so that it ends inside `without_orbax_noise`."""
    gc.collect()
    time.sleep(SETTLING)
    gc.collect()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    said = (
        record.getMessage() if record.name == "asyncio" else record.pathname
    )  # for a task, asyncio reports what it awaits
    return "orbax" not in said and "tensorstore" not in said


def _is_of_orbax(unraisable) -> bool:
    code = getattr(unraisable.object, "cr_code", None) if inspect.iscoroutine(unraisable.object) else None
    return "Event loop is closed" in str(unraisable.exc_value) or (code is not None and "orbax" in code.co_filename)
