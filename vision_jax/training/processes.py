"""Which processes are one run, by the command line or the environment; without jax, so that it is known at once."""

import importlib.util
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from vision_jax.errors import ConfigError

_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # what JAX reads within `srun`


class Processes(NamedTuple):
    """The processes as given on the command line: process `index` of `count`, process 0 at `coordinator`, HOST:PORT."""

    coordinator: str
    index: int
    count: int


def explicit_processes(coordinator: str | None, index: int | None, count: int | None) -> Processes | None:
    """The processes given on the command line, or None. Raises ConfigError for incomplete or invalid arguments."""
    if coordinator is None and index is None and count is None:
        return None
    if not coordinator or index is None or count is None:
        raise ConfigError(
            "--coordinator=HOST:PORT, --process_id and --num_processes belong together: give all three or none"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator takes HOST:PORT of process 0, got {coordinator!r}")
    if not 0 <= index < count:
        raise ConfigError(f"--process_id must be 0 to --num_processes - 1, got {index} of {count}")
    return Processes(coordinator, index, count)


def announced_count(environ: Mapping[str, str] = os.environ) -> int:
    """The number of processes of this run by the environment of Open MPI, Slurm or a TPU pod; 1 if none of them says."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return int(environ["OMPI_COMM_WORLD_SIZE"])
    if all(name in environ for name in _SLURM):
        return int(environ.get("SLURM_NTASKS", 1))
    if importlib.util.find_spec("libtpu") is None or environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return 1
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or _hosts_of_tpu_vm(environ)
    return len(hosts.split(",")) * int(environ.get("MEGASCALE_NUM_SLICES") or 1)


def _hosts_of_tpu_vm(environ: Mapping[str, str]) -> str:
    """The workers of this machine's TPU pod, from Google's metadata server; empty if there is none."""
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    if environ.get("TPU_SKIP_MDS_QUERY") or not any(path.read_text().strip() == "0x1ae0" for path in vendors):
        return ""
    request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


def count_of(explicit: Processes | None) -> int:
    """The number of processes of this run."""
    return explicit.count if explicit else announced_count()
