import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax import main
from vision_jax.errors import ConfigError
from vision_jax.training import distributed, processes
from vision_jax.training.processes import Processes, announced_count, explicit_processes

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.fixture
def libtpu(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(processes, "_hosts_of_tpu_vm", lambda environ: "10.0.0.1,10.0.0.2,10.0.0.3")


@pytest.mark.parametrize(
    "environ, count",
    [
        ({}, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, 1),  # in a batch script, outside of srun
        ({**SLURM, "SLURM_NTASKS": "16"}, 16),
        ({**SLURM, "SLURM_NTASKS": "1"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 1),  # no TPU here
    ],
)
def test_what_launchers_announce(environ, count, monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert announced_count(environ) == count


@pytest.mark.parametrize(
    "environ, count",
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, 4),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, 2),
        ({"JAX_PLATFORMS": "cpu", "TPU_WORKER_HOSTNAMES": "a,b"}, 1),
        ({"JAX_PLATFORMS": "tpu,cpu"}, 3),  # of the metadata server
        ({}, 3),
    ],
)
def test_what_tpus_announce(environ, count, libtpu):
    assert announced_count(environ) == count


def test_explicit_processes():
    assert explicit_processes(None, None, None) is None
    assert explicit_processes("host:1234", 1, 2) == Processes("host:1234", 1, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--coordinator=a:1"], "give all three or none"),
        (["--process_id=0", "--num_processes=2"], "give all three or none"),
        (["--coordinator=a", "--process_id=0", "--num_processes=2"], "HOST:PORT"),
        (["--coordinator=a:b", "--process_id=0", "--num_processes=2"], "HOST:PORT"),
        (["--coordinator=a:1", "--process_id=2", "--num_processes=2"], "got 2 of 2"),
        (["--coordinator=a:1", "--process_id=x", "--num_processes=2"], "process_id"),
    ],
)
def test_a_wrong_command_line_is_an_error(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        main.run(["--config=configs/vit_digits.py", f"--workdir={tmp_path / 'run'}", *arguments])
    assert not list(tmp_path.iterdir())


def test_one_process_starts_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    for explicit in (None, Processes("a:1", 0, 1)):
        with distributed.several_processes(explicit):
            pass
    with pytest.raises(ZeroDivisionError), distributed.several_processes():
        _ = 1 / 0
    assert distributed.is_writer() and distributed.from_first(3) == 3 and distributed.any_process(True)
    distributed.check_shared(tmp_path / "missing")
    distributed.wait_for_all("here")


def test_processes_that_do_not_find_each_other_are_told_in_one_line(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # of an Open MPI that does not say where the coordinator is
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with (
        pytest.raises(ConfigError, match=r"2 processes of this run did not find each other.*--coordinator"),
        distributed.several_processes(),
    ):
        pass


def test_arrays_come_and_go_whole():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = {"a": NamedSharding(mesh, PartitionSpec("data")), "b": NamedSharding(mesh, PartitionSpec())}
    tree = {"a": np.arange(16.0, dtype=np.float32).reshape(8, 2), "b": np.int32(3)}
    placed = distributed.place(tree, shardings)
    assert jax.tree.map(lambda x: x.sharding, placed) == shardings
    fetched = distributed.fetch(placed)
    assert all(isinstance(x, np.ndarray) for x in fetched.values())
    chex.assert_trees_all_equal(fetched, tree)


def test_an_abort_ends_with_the_line():
    code = """import os, threading; from vision_jax.training.distributed import explain_abort
explain_abort("error: told\\n"); t = threading.Thread(target=os.abort); t.start(); t.join()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: told\n")
