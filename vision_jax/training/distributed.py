"""Several processes as one run: finding them, agreeing with them, and ending together.

Every process runs the same command and the same program; `several_processes` connects them before any device is
queried. With a single process, nothing here does anything.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.training.processes import Processes, count_of

START_TIMEOUT = 300  # seconds within which all processes must have started
WATCH_EVERY = 1.0  # seconds between checks for a failed process
OF_OTHERS = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED")  # errors after another process is lost
RESUME = "starting all of them again continues from the newest checkpoint"
FAILED = "vision_jax/failed"  # the key under which a failing process says why


@contextlib.contextmanager
def several_processes(explicit: Processes | None = None, timeout: int = 100) -> Iterator[None]:
    """While open, this process is part of a run: with the `explicit` processes, or those that the environment announces.

    Must be entered before any device is queried. A process that fails tells the others why, and all end: with status 2
    after a ConfigError, 1 otherwise. If one is killed or loses its machine, the others notice within `timeout` seconds.
    """
    count = count_of(explicit)
    if count == 1:
        yield
        return
    _initialize(explicit, count, timeout)
    watch = _Watch()
    try:
        yield
        jax.distributed.shutdown()  # waits for the others
    except Stopped:
        jax.distributed.shutdown()
        raise
    except (ConfigError, RunError) as error:
        watch.fail(f"failed: {' '.join(str(error).split())}", 2 if isinstance(error, ConfigError) else 1)
    except BaseException as error:
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(error, jax.errors.JaxRuntimeError) and any(word in what for word in OF_OTHERS):
            watch.fail(f"lost another process of the run, which was killed or is out of reach ({what}); {RESUME}", 1)
        watch.fail(f"failed: {what}", 1, error)
    finally:
        watch.close()


def _initialize(explicit: Processes | None, count: int, timeout: int) -> None:
    arguments: dict[str, Any] = {}
    if explicit:
        arguments = dict(
            coordinator_address=explicit.coordinator,
            process_id=explicit.index,
            num_processes=explicit.count,
            cluster_detection_method="deactivate",
        )
    missing = f"the {count} processes of this run did not find each other: start all of them within {START_TIMEOUT} s"
    explain_abort(f"error: {missing}\n")
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=START_TIMEOUT, heartbeat_timeout_seconds=timeout)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{missing}, or give --coordinator=HOST:PORT, --process_id and --num_processes ({(str(error).splitlines() or [''])[0]})"
        ) from error


class _Watch:
    """Ends this process with one line when another process of the run has failed."""

    def __init__(self):
        from jax._src.distributed import global_state  # JAX has no public access to the coordinator's key-value store

        self.client, self.index = global_state.client, global_state.process_id
        self.me = f"process {self.index} of {global_state.num_processes}"
        self.ending, self.closed = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        explain_abort(
            f"error: {self.me} was ended by JAX, as told above: it lost another process of the run, which was killed or is"
            f" out of reach; {RESUME}\n"
        )

    def look(self) -> None:
        while not self.closed.wait(WATCH_EVERY):
            if failures := self.failures():
                self.end(f"{self.me} ends, since {failures[0]}", 1)

    def failures(self) -> list[str]:
        """The messages of the processes that failed."""
        try:
            return [reason for _, reason in self.client.key_value_dir_get(FAILED)]
        except RuntimeError:  # the coordinator is gone; JAX itself reports that
            return []

    def fail(self, reason: str, status: int, error: BaseException | None = None) -> None:
        """Tells the others why this process ends, and ends it, with a traceback of `error` unless others failed first."""
        if failures := self.failures():
            self.end(f"{self.me} ends, since {failures[0]}", status)
        with contextlib.suppress(RuntimeError):
            self.client.key_value_set(f"{FAILED}/{self.index}", f"{self.me} {reason}")
        if error is not None:
            traceback.print_exception(error)
        self.end(f"{self.me} {reason}", status)

    def end(self, line: str, status: int) -> None:
        # A normal exit would wait for the others, which may be stuck in a collective.
        self.ending.acquire()
        print(f"error: {line}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if self.index == 0:
            self.closed.wait(3 * WATCH_EVERY)  # the key-value store is in this process: let the others read it first
        os._exit(status)

    def close(self) -> None:
        self.closed.set()
        self.thread.join()


def explain_abort(line: str) -> None:
    """Writes `line` to stderr and exits with status 1 if native code aborts this process; the last `line` counts.

    JAX's runtime aborts a process that does not find or loses the coordinator, or hears that another process fell silent,
    after a log and a stack trace that tell a reader little. It offers no callback (its client's one fails on any status).
    """
    text = line.encode()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def say(_):
        os.write(2, text)
        os._exit(1)

    _handlers.append(say)  # keeps the callback alive: C holds no reference
    ctypes.CDLL(None).signal(signal.SIGABRT, say)


_handlers: list = []


def is_writer() -> bool:
    """Whether this process is the one that prints and writes what should appear only once."""
    return jax.process_index() == 0


def stop_agreed(step: int) -> bool:
    """Whether all processes stop after this step because one of them got SIGTERM. Each asks at every step; none waits
    unless a signal came. The step is the first that no process has passed."""
    return multihost_utils.reached_preemption_sync_point(step)


def from_first(value: int) -> int:
    """Process 0's value, in every process."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(value: bool) -> bool:
    """Whether it is true in any process."""
    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(value)).any())


def wait_for_all(where: str) -> None:
    """Returns once every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def check_shared(folder: pathlib.Path) -> None:
    """Raises ConfigError in every process unless all of them see the same `folder`."""
    if jax.process_count() == 1:
        return
    token = folder / f".seen-{from_first(int.from_bytes(os.urandom(3)))}"
    if jax.process_index() == 0:
        token.touch()
    wait_for_all("token written")
    missing = any_process(not token.exists())
    if jax.process_index() == 0:
        token.unlink()
    if missing:
        raise ConfigError(f"the work folder {folder} must be one that all {jax.process_count()} processes share")


def fetch(tree: Any) -> Any:
    """Host copies of whole arrays, in every process, however they are sharded."""

    def one(x):
        whole = x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x) if whole else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, as global arrays with these shardings."""
    return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, x.__getitem__), tree, shardings)
