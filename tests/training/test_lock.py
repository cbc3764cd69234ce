import json
import multiprocessing
import os
import signal
import time

import pytest

from vision_jax.errors import ConfigError
from vision_jax.training.lock import WriterLock


def hold(workdir, ready):
    with WriterLock(workdir, heartbeat=0.1):
        ready.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock of a folder."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_writer_is_told_who_the_first_is(owner, tmp_path):
    with pytest.raises(ConfigError, match=rf"in use by process {owner.pid} on host \S+, started 20\d\d-"):
        WriterLock(tmp_path / "run").__enter__()


def test_a_killed_owner_gives_way(owner, tmp_path):
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert (tmp_path / "run" / "lock").exists()
    with WriterLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock").read_text())["process"] == os.getpid()


def test_an_owner_on_another_machine_counts_by_its_heartbeat(owner, tmp_path, capsys):
    """As where the file system does not carry the kernel's lock from machine to machine."""
    lock = tmp_path / "run" / "lock"
    said = json.loads(lock.read_text()) | {"boot": "another", "host": "there"}
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    lock.write_text(json.dumps(said))
    with WriterLock(tmp_path / "run", heartbeat=0.1, silent=0.5):
        assert "may still write here" in capsys.readouterr().err
    context = multiprocessing.get_context("spawn")
    beating = context.Process(target=beat, args=(lock, said))
    beating.start()
    while not lock.exists():
        time.sleep(0.01)
    with pytest.raises(ConfigError, match="on host there"):
        WriterLock(tmp_path / "run", heartbeat=0.1, silent=30).__enter__()
    beating.kill()
    beating.join()


def test_a_start_that_was_refused_keeps_nothing(tmp_path):
    """Neither the kernel's lock nor a descriptor: the next start in the same process meets the same owner."""
    (tmp_path / "lock").write_text(json.dumps({"process": 7, "host": "there", "boot": "another"}))
    context = multiprocessing.get_context("spawn")
    beating = context.Process(target=beat, args=(tmp_path / "lock", {"process": 7, "host": "there", "boot": "another"}))
    beating.start()
    for _ in range(2):
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ConfigError, match="in use by process 7 on host there"):
            WriterLock(tmp_path, heartbeat=0.1, silent=30).__enter__()
        assert len(os.listdir("/proc/self/fd")) == descriptors
    beating.kill()
    beating.join()


def test_a_lock_that_another_took_over_is_left(tmp_path):
    lock = WriterLock(tmp_path)
    with lock:
        (tmp_path / "lock").write_text('{"process": 7, "host": "there", "boot": "another"}')
    assert json.loads((tmp_path / "lock").read_text())["process"] == 7


def beat(lock, said):
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps(said))
    while True:
        time.sleep(0.05)
        os.utime(lock)


def test_nothing_stays_of_a_start_that_fails(tmp_path):
    with WriterLock(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run" / "lock").exists()
    assert not (tmp_path / "new" / "run").exists()
    with WriterLock(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"process": "\\u001b[31m"}', "\0" * 100])
def test_what_stands_in_a_lock_does_not_matter_once_it_is_free(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    with WriterLock(tmp_path, heartbeat=0.05, silent=0.1):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the work folder"):
        WriterLock(tmp_path / "file" / "run").__enter__()
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match="in the way"):
        WriterLock(tmp_path / "run").__enter__()
