"""The input pipeline: a function of the step.

    example ids, reshuffled each epoch -> repeated -> loaded and augmented -> this process's rows -> batches

Position p in the endless training order decides which example is seen and how it is augmented, so the batches from step
k on are those of a run that was never interrupted, for any number of workers, threads and processes. The step is all
that needs saving about the data.
"""

import dataclasses
import gc
import multiprocessing
import multiprocessing.resource_tracker
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vision_jax.data.classes import Renumbered
from vision_jax.data.reading import Field, LabelReader, label_fields, read, transform_of
from vision_jax.data.sources import Source, open_source
from vision_jax.data.sources.mix import Mix
from vision_jax.errors import ConfigError
from vision_jax.signals import HEARD

Batch = dict[str, np.ndarray]
Fields = dict[str, Field]

_CLOSING = 10.0  # seconds for workers to end by themselves
_ENDLESS = 2**60  # examples; at sys.maxsize, which Grain uses, its own rounding overflows


class Batches(Iterator[Batch]):
    """Batches prefetched by threads or worker processes, which end with `close()`, the `with` block or an error.

    Each batch has its `fields`, "mask": bool[b] (False: a broken image or padding, whose fields are zeros) and "id":
    int32[b] (the example's index in its source, -1 for padding).
    """

    def __init__(self, dataset, data, batch_bytes: int):
        """`dataset`: a grain.MapDataset of batches; `data`: the config section with workers, threads and prefetch."""
        import grain

        _parse_absl_flags()
        self._workers = workers = min(data.workers, len(dataset))
        _check_shared_memory(workers, batch_bytes)
        ahead = -(-data.prefetch // max(workers, 1))  # in each worker
        reading = grain.ReadOptions(num_threads=min(data.threads, ahead), prefetch_buffer_size=ahead)
        dataset = dataset.to_iter_dataset(reading)
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        self._others = set(multiprocessing.active_children())  # such as those of training during evaluation
        self._iterator = iter(dataset)
        self._first: queue.SimpleQueue | None = queue.SimpleQueue()  # what `_start` has made
        threading.Thread(target=self._start, daemon=True).start()

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        try:
            batch = self._next()
        except Exception:
            self.close()
            raise
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def _next(self) -> Batch | None:
        if self._first is None:
            return next(self._iterator, None)
        batch, error = self._first.get()
        self._first = None
        if error:
            raise error
        return batch

    def _start(self) -> None:
        """Makes the first batch, for which Grain starts its threads, and they the worker processes. All inherit this
        thread's signal mask, so that no signal ends a worker before `_start_worker` ignores it."""
        _start_tracker()  # now, since that would lift the mask
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            self._first.put((next(self._iterator, None), None))
        except Exception as error:
            self._first.put((None, error))

    def close(self) -> None:
        """Ends the workers and waits for them; may be called more than once."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        closing = threading.Thread(target=iterator.close, daemon=True)
        closing.start()
        closing.join(_CLOSING)
        if closing.is_alive():  # a worker never answers, and Grain would wait for it forever
            for worker in set(multiprocessing.active_children()) - self._others:
                worker.kill()
            closing.join(_CLOSING)
        if self._workers:
            gc.collect()  # Grain's finished iterators keep batches in shared memory alive by a reference cycle

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def train_batches(
    config,
    *,
    seed: int,
    start_step: int,
    rows: Sequence[int] | None = None,
    source: Source | None = None,
    fields: Fields | None = None,
    reader: Callable | None = None,
) -> Batches:
    """Endless training batches of config.batch_size examples from `start_step` on, or only the `rows` of each.

    `source`: that of `config.data.train`, opened here by default. `reader(example, rng)` makes the arrays of the `fields`
    from an example: by default pictures with labels.

    The rows of several processes together form the batches that one process would make. Repeated augmentation
    (config.data.augment.repeats = r; Hoffer et al., 2020) puts r differently augmented copies of an example in a row, so
    they share a batch. An epoch keeps its length and so holds one image in r; the next epoch continues with the images
    not yet seen, unlike DeiT's RASampler, which draws a new permutation.
    """
    import grain

    if source is None:
        source = open_source(config.data.train, tfds_dir=config.data.tfds_dir)
    row = _Row(source, fields or label_fields(config.data), reader or LabelReader(transform_of(config.data, True)))
    _check_batch_size(config.batch_size, "batch_size")
    _check_counts(config.data)
    ids = _Repeated(_training_order(source, seed), config.data.augment.repeats)
    examples = grain.MapDataset.source(ids).random_map(row, seed=_derived(seed, 0))
    return _batches(examples, config, config.batch_size, rows, row.bytes, start_step)


def eval_batches(
    source: Source,
    config,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
    fields: Fields | None = None,
    reader: Callable | None = None,
) -> Batches:
    """Batches of batch_size examples that show every example of `source` once, or only the `rows` of each.

    The last batch is padded with mask=False, so that every process makes the same number. `fields`, `reader`: as in
    `train_batches`.
    """
    import grain

    row = _Row(source, fields or label_fields(config.data), reader or LabelReader(transform_of(config.data, False)))
    _check_batch_size(batch_size, "evals.batch_size")
    _check_counts(config.data)
    padded = -(-len(source) // batch_size) * batch_size
    return _batches(grain.MapDataset.range(padded).map(row), config, batch_size, rows, row.bytes)


def _batches(examples, config, batch_size: int, rows: Sequence[int] | None, row_bytes: int, start: int = 0) -> Batches:
    """Batches of a grain.MapDataset of examples, from batch `start` on."""
    import grain

    if rows is not None:
        examples, batch_size = grain.MapDataset.source(_Rows(examples, batch_size, tuple(rows))), len(rows)
    return Batches(examples.batch(batch_size)[start:], config.data, batch_size * row_bytes)


def _training_order(source: Source, seed: int):
    """An endless grain.MapDataset of example ids; each source of a mix is shuffled and repeated on its own."""
    import grain

    source = source.source if isinstance(source, Renumbered) else source
    parts = zip(source.offsets, source.offsets[1:], strict=False) if isinstance(source, Mix) else [(0, len(source))]
    orders = [
        grain.MapDataset.range(start, stop).shuffle(seed=_derived(seed, 1 + i)).repeat()
        for i, (start, stop) in enumerate(parts)
    ]
    return grain.MapDataset.mix(orders, source.weights) if isinstance(source, Mix) else orders[0]


def _derived(seed: int, index: int) -> int:
    """A 32-bit seed whose stream shares nothing with those of other indices: Grain adds the epoch to a seed."""
    return int(np.random.SeedSequence((seed % 2**64, index)).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class _Repeated:
    """Each element of an endless dataset `copies` times in a row."""

    dataset: "grain.MapDataset"  # noqa: F821
    copies: int

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> int:
        return self.dataset[index // self.copies]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The elements at `rows` of every `batch_size` elements of a dataset."""

    dataset: "grain.MapDataset"  # noqa: F821
    batch_size: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> dict:
        batch, row = divmod(index, len(self.rows))
        return self.dataset[batch * self.batch_size + self.rows[row]]


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of a batch; for an unreadable example or padding, the fields are zeros and the mask is False."""

    source: Source
    fields: Fields
    reader: Callable

    def __call__(self, id: int, rng: np.random.Generator | None = None) -> dict:
        made = read(self.source, id, self.reader, rng) if id < len(self.source) else None
        row = {
            name: np.zeros(*field) if made is None else _fitting(name, made.get(name), field)
            for name, field in self.fields.items()
        }
        index = id if id < len(self.source) else -1
        return row | {"mask": np.bool_(made is not None), "id": np.int32(index)}

    @property
    def bytes(self) -> int:
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self.fields.values())


def _fitting(name: str, value, field: Field) -> np.ndarray:
    if np.shape(value) != field.shape or not np.can_cast(np.asarray(value).dtype, field.dtype, "same_kind"):
        raise ConfigError(
            f"the task's batches have {name!r} as {np.dtype(field.dtype)}{list(field.shape)} an example, and its reader gave"
            f" {np.asarray(value).dtype}{list(np.shape(value))}"
        )
    return np.asarray(value, field.dtype)


def _check_batch_size(batch_size: int, key: str) -> None:
    if batch_size < 1:
        raise ConfigError(f"config key '{key}' must be at least 1, got {batch_size}")


def _check_counts(data) -> None:
    least = {"workers": 0, "threads": 0, "prefetch": 0, "augment.repeats": 1}
    for key, value in zip(least, (data.workers, data.threads, data.prefetch, data.augment.repeats), strict=True):
        if value < least[key]:
            raise ConfigError(f"config key 'data.{key}' must be at least {least[key]}, got {value}")


def _check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Checks the shared memory: containers give 64 MB by default, and a worker that needs more dies silently of SIGBUS."""
    needed = 2 * workers * batch_bytes  # one batch ready and one in progress in each
    if workers and os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free < needed:
        raise ConfigError(
            f"{workers} worker processes need {needed / 1e6:.0f} MB of shared memory for their batches, and /dev/shm "
            f"has {shutil.disk_usage('/dev/shm').free / 1e6:.0f} MB free: give the container more (docker run "
            "--shm-size), or set config.data.workers = 0"
        )


def _parse_absl_flags() -> None:
    """Parses absl flags, which Grain reads when it starts workers; this fails in a program that does not use absl."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_tracker() -> None:
    """Starts the process that frees shared memory left by a killed worker, without its warning."""
    before = list(sys.warnoptions)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    multiprocessing.resource_tracker.ensure_running()
    sys.warnoptions[:] = before


def _start_worker(index: int, count: int) -> None:
    """In a worker: leaves signals that stop a run to the parent, and ends when the parent ends, for whatever reason.

    Ctrl-C reaches all processes of a terminal, and a scheduler's SIGTERM often all processes of a job.
    """
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)

    def follow_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
