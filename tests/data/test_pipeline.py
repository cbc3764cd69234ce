import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.config import base_config
from vision_jax.data import open_source, pipeline
from vision_jax.errors import ConfigError

AUGMENT = {"crop_area": (0.3, 1.0), "rotate": 15.0, "shift": 0.1, "policy": "rand-m9-mstd0.5-inc1"}


def _digits(**data):
    c = base_config()
    c.batch_size = 12
    c.data = {"image_size": 16, "prefetch": 2, "threads": 2, **data}
    c.data.augment = AUGMENT
    return c


def _train(config, steps, start=0, seed=0, **processes):
    with pipeline.train_batches(config, seed=seed, start_step=start, **processes) as batches:
        return [{key: np.array(value) for key, value in next(batches).items()} for _ in range(steps)]


def _ids(config, count, **kwargs):
    steps = -(-count // config.batch_size)
    return np.concatenate([batch["id"] for batch in _train(config, steps, **kwargs)])[:count]


@pytest.fixture(scope="module")
def uninterrupted():
    return _train(_digits(), 40)


def test_shapes_and_dtypes(config):
    config.data.image_size = (10, 14)
    batch = _train(config, 1, rows=range(4, 8))[0]
    described = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert described == {
        "image": ((4, 10, 14, 3), np.uint8),
        "label": ((4,), np.int32),
        "mask": ((4,), np.bool_),
        "id": ((4,), np.int32),
    }
    source = open_source("digits:train")
    assert batch["mask"].all() and [source[i]["label"] for i in batch["id"]] == batch["label"].tolist()


@settings(deadline=None, max_examples=12)
@given(
    start=st.integers(0, 37),
    owners=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    threads=st.integers(0, 3),
    prefetch=st.integers(0, 5),
)
def test_any_step_is_that_of_the_uninterrupted_run(uninterrupted, start, owners, threads, prefetch):
    """Examples and their augmentations, whichever rows a process makes."""
    config = _digits(threads=threads, prefetch=prefetch)
    for process in {*owners, None}:
        rows = None if process is None else np.flatnonzero(np.array(owners) == process)
        for step, share in enumerate(_train(config, 3, start, rows=rows)):
            expected = {
                key: value[slice(None) if rows is None else rows] for key, value in uninterrupted[start + step].items()
            }
            np.testing.assert_equal(share, expected)


@pytest.mark.parametrize("workers, start", [(2, 5), (3, 31)])
def test_workers_change_nothing(uninterrupted, workers, start):
    before = multiprocessing.active_children()
    np.testing.assert_equal(_train(_digits(workers=workers), 7, start), uninterrupted[start : start + 7])
    assert multiprocessing.active_children() == before


def test_far_steps_cost_nothing():
    """Half a million epochs in, without going through them."""
    a, b = _train(_digits(), 2, start=10**8), _train(_digits(), 1, start=10**8 + 1)
    np.testing.assert_equal(a[1], b[0])


def test_seeds_and_epochs_differ_in_order_and_augmentation(folder, config):
    config.data.train = f"folder:{folder}"
    epochs = _ids(config, 33).reshape(3, 11)
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not np.array_equal(_ids(config, 33, seed=1), epochs.ravel())
    assert not np.array_equal(_ids(config, 11, seed=1), epochs[1])
    assert _ids(config, 11, seed=-1).shape == (11,)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_every_example_is_seen_once_an_epoch(batch, seed):
    config = _digits()
    config.data.train, config.batch_size, config.data.image_size = "digits:test", batch, 2
    ids = _ids(config, 720, seed=seed).reshape(2, 360)
    np.testing.assert_array_equal(np.sort(ids), np.tile(np.arange(360), (2, 1)))


def test_the_same_example_is_augmented_anew_each_epoch(folder, encode):
    rng = np.random.default_rng(0)
    (folder / "zebra" / "0.png").write_bytes(encode(rng.integers(0, 256, (20, 24, 3), np.uint8)))
    config = _digits(train=f"folder:{folder}")
    config.batch_size = 11
    wanted = [batch["image"][batch["id"] == 9] for batch in _train(config, 6)]
    assert len({image.tobytes() for image in wanted}) == 6


def test_repeated_augmentation(folder, config):
    config.data.train = f"folder:{folder}"
    config.data.augment = {**AUGMENT, "repeats": 3}
    assert len(open_source(config.data.train)) == 11
    batches = _train(config, 11)  # 132 positions: 44 images three times each, 4 passes over the folder
    ids = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(ids[::3], ids[1::3])
    np.testing.assert_array_equal(ids[::3], ids[2::3])
    np.testing.assert_array_equal(np.sort(ids[::3].reshape(4, 11)), np.tile(np.arange(11), (4, 1)))
    images = np.concatenate([batch["image"] for batch in batches])
    assert len({image.tobytes() for image in images}) > 60  # flat greys: some augmentations of them agree


def test_mix_keeps_its_proportions_and_each_sources_epochs(folder, config):
    config.data.train = ((f"folder:{folder}", 1), (f"folder:{folder}", 3))
    assert len(open_source(config.data.train)) == 22
    ids = _ids(config, 176)
    first, second = ids[ids < 11], ids[ids >= 11]
    assert (len(first), len(second)) == (44, 132)
    assert all(len(ids[i : i + 4][ids[i : i + 4] < 11]) == 1 for i in range(0, 176, 4))  # evenly, not only on average
    np.testing.assert_array_equal(np.sort(first.reshape(4, 11)), np.tile(np.arange(11), (4, 1)))
    np.testing.assert_array_equal(np.sort(second.reshape(12, 11)), np.tile(np.arange(11, 22), (12, 1)))
    assert not np.array_equal(first[:11], second[:11] - 11)
    np.testing.assert_array_equal(_ids(config, 24, start=7), ids[7 * 12 : 9 * 12])


@pytest.mark.parametrize("batch, processes", [(12, 1), (12, 4), (360, 1), (400, 8), (7, 7), (100, 5)])
def test_evaluation_shows_every_example_once(batch, processes, config):
    source = open_source("digits:test")
    ids, lengths = [], set()
    for index in range(processes):
        rows = np.arange(batch)[index::processes]
        with pipeline.eval_batches(source, config, batch_size=batch, rows=rows) as batches:
            share = [{key: np.array(value) for key, value in batch.items()} for batch in batches]
            assert list(batches) == []
        lengths.add(len(share))
        for b in share:
            assert b["image"].shape == (batch // processes, 16, 16, 3)
            assert [source[i]["label"] for i in b["id"][b["mask"]]] == b["label"][b["mask"]].tolist()
            assert (b["id"][~b["mask"]] == -1).all() and not b["image"][~b["mask"]].any()
            ids += b["id"][b["mask"]].tolist()
    assert sorted(ids) == list(range(360)) and lengths == {-(-360 // batch)}


def test_evaluation_with_more_workers_than_batches(folder, config):
    source = open_source(f"folder:{folder}")
    config.data.workers = 3
    with pipeline.eval_batches(source, config, batch_size=6) as batches:
        assert [b["id"].tolist() for b in batches] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, -1]]
    assert not multiprocessing.active_children()


def test_evaluation_pixels_are_those_of_the_transform(folder, config):
    source = open_source(f"folder:{folder}")
    with pipeline.eval_batches(source, config, batch_size=11) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(batch["image"].max((1, 2, 3)), [0, 1, 2, 3, 20, 21, 22, 23, 24, 40, 41])
    np.testing.assert_array_equal(batch["image"].max((1, 2, 3)), batch["image"].min((1, 2, 3)))


def test_broken_images_are_masked_and_named_once(folder, config, capfd):
    whole = (folder / "class2" / "1.png").read_bytes()
    (folder / "class2" / "1.png").write_bytes(whole[:40])
    (folder / "zebra" / "0.png").write_bytes(b"not an image")
    config.data.train = f"folder:{folder}"
    config.batch_size = 11
    for batch in _train(config, 3):
        assert sorted(batch["id"][~batch["mask"]]) == [1, 9]
        assert not batch["image"][~batch["mask"]].any() and batch["mask"].sum() == 9
    source = open_source(f"folder:{folder}")
    (folder / "class10" / "0.png").unlink()
    with pipeline.eval_batches(source, config, batch_size=11) as batches:
        assert np.flatnonzero(~next(batches)["mask"]).tolist() == [1, 4, 9]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    for name in ("class2/1.png", "zebra/0.png", "example 4: "):
        assert sum(name in line and "broken image" in line for line in lines) == 1


class Faulty:
    """A source with a mistake in its code."""

    num_classes, class_names = 1, ("a",)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise ZeroDivisionError("a mistake")


@pytest.mark.parametrize("workers", [0, 1])
def test_mistakes_are_not_taken_for_broken_images(workers, config):
    config.data.workers = workers
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        next(pipeline.eval_batches(Faulty(), config, batch_size=4))
    assert not multiprocessing.active_children()


def test_closing_twice_and_reading_on(config):
    batches = pipeline.train_batches(config, seed=0, start_step=0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "'batch_size' must be at least 1, got 0"),
        ({"workers": -1}, "'data.workers' must be at least 0, got -1"),
        ({"threads": -1}, "data.threads"),
        ({"prefetch": -2}, "data.prefetch"),
        ({"augment": {"repeats": 0}}, "'data.augment.repeats' must be at least 1, got 0"),
    ],
)
def test_bad_values_are_named(change, message, config):
    if "batch_size" in change:
        config.batch_size = change["batch_size"]
    else:
        config.data = change
    with pytest.raises(ConfigError) as error:
        pipeline.train_batches(config, seed=0, start_step=0)
    assert message in str(error.value)


def test_too_little_shared_memory_is_an_error_in_words(config, monkeypatch):
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    config.data.workers = 2
    if os.path.isdir("/dev/shm"):
        with pytest.raises(ConfigError, match="--shm-size"):
            pipeline.train_batches(config, seed=0, start_step=0)


SCRIPT = """
import multiprocessing, signal, time
from vision_jax.config import base_config
from vision_jax.data import pipeline
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background inherits to ignore it
    config = base_config()
    config.batch_size = 8
    config.data = {"image_size": 16, "workers": 2}
    with pipeline.train_batches(config, seed=0, start_step=0) as batches:
        next(batches), next(batches)
        try:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
    print("closed", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    if how == signal.SIGKILL:
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does: the parent and its workers
    out, err = parent.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers)
    if how == signal.SIGINT:
        assert out == "closed\n" and err == "" and parent.returncode == 0


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
