"""The devices of a plan: TPU slices, which need not be present, and what a chip of each kind has."""

import importlib.util
import re
from typing import NamedTuple

from vision_jax.errors import ConfigError, did_you_mean, not_installed

# Keeps libtpu from looking for chips, so that it compiles for absent ones. Must be set before it is loaded.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any value: it is read, not used
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock file is for processes that use chips
}


class Chip(NamedTuple):
    """What one jax device has. None: not published."""

    memory: int  # bytes
    bandwidth: float  # of its memory, bytes/s
    clock: float  # Hz, for the compiler's cycles
    links: float  # to the slice's other chips: bytes/s that it can receive while sending as many
    network: float | None  # to other slices, bytes/s


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: "HBM capacity" and "bandwidth", half the "bidirectional inter-chip
# interconnect bandwidth", "data center network bandwidth" by chips; v4's links: six of 50 GB/s each way (Jouppi et al.,
# 2023, https://arxiv.org/abs/2304.01433). v4's clock: table 4 there. The other clocks follow from the peak, which is
# 2 x multipliers x clock: 4 matrix units of 128 x 128 in a v5e, 8 in a v5p, and in a v6e 4 times as many multipliers as
# in a v5e. Cores: v4 and v5p have two per chip, which run as one device.
CHIPS = {
    "v4": Chip(32 * 2**30, 1200e9, 1.05e9, 300e9, None),
    "v5e": Chip(16 * 2**30, 819e9, 1.5e9, 200e9, 6.4e12 / 8 / 256),
    "v5p": Chip(95 * 2**30, 2765e9, 1.75e9, 600e9, 50e9 / 8),
    "v6e": Chip(32 * 2**30, 1638e9, 1.75e9, 400e9, 25.6e12 / 8 / 256),
}
_EXAMPLES = {"v4": "4x4x4", "v5e": "16x16", "v5p": "4x4x4", "v6e": "16x16"}


class Topology(NamedTuple):
    """`slices` slices of `generation`, each of `shape` chips."""

    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        slices = f"*{self.slices}" if self.slices > 1 else ""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}{slices}"


def parse_topology(text: str) -> Topology:
    """The topology for "v5e:16x16", "v4:4x4x8" or, with two slices of the first, "v5e:16x16*2"."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", text)
    if match is None:
        raise ConfigError(f"--topology must read such as v5e:16x16, v5e:16x16*2 (slices), cpu or gpu, got {text!r}")
    generation, shape, slices = match[1], tuple(map(int, match[2].split("x"))), int(match[3] or 1)
    if generation not in CHIPS:
        raise ConfigError(f"--topology: no TPU {generation!r}{did_you_mean(generation, CHIPS)}")
    example = _EXAMPLES[generation]
    if len(shape) != 1 + example.count("x") or min(*shape, slices) < 1:
        raise ConfigError(f"--topology: a slice of {generation} is such as {generation}:{example}, got {text!r}")
    return Topology(generation, shape, slices)


def tpu_devices(topology: Topology) -> list:
    """Devices to compile for, on which nothing can run. `ENVIRONMENT` must be set before jax is imported.

    Raises:
        ConfigError: libtpu is not installed, or there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise not_installed("compiling for TPUs", "libtpu", '"jax[tpu]"')
    from jax.experimental import topologies

    options: dict = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.generation == "v4":
        options["chip_config_name"] = "megacore"
    if max(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    shape = "x".join(map(str, topology.shape))
    try:
        found = topologies.get_topology_desc(f"{topology.generation}:{shape}", "tpu", **options)
    except Exception as error:  # any error from the plug-in
        raise ConfigError(f"--topology={topology}: {str(error).strip().splitlines()[0]}") from error
    return list(found.devices)
