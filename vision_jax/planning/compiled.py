"""What a compiled train step needs: device memory, FLOPs, traffic, exchanges and, as the compiler estimates, time."""

import math
import re
from typing import NamedTuple

import jax

from vision_jax.errors import ConfigError
from vision_jax.planning.collectives import Collective, collectives
from vision_jax.planning.hlo import Program
from vision_jax.planning.products import product_flops
from vision_jax.planning.topology import Chip
from vision_jax.planning.traffic import memory_traffic
from vision_jax.training.partitioning import slice_of
from vision_jax.training.setup import Setup, trace_step


class Memory(NamedTuple):
    """Bytes on one device while the step runs."""

    parameters: int
    moments: int
    average: int
    statistics: int
    batch: int
    activations: int  # and everything else that lives only within the step: gradients, gathered parameters, scratch
    program: int
    padding: int  # added to the above by tiled layouts

    @property
    def total(self) -> int:
        return sum(self)


class Work(NamedTuple):
    """What a step needs from one device."""

    flops: int  # matrix products and convolutions, including recomputed ones
    traffic: int  # bytes to and from main memory
    collectives: tuple[Collective, ...]
    cycles: int  # the compiler's estimate; 0 if it makes none


class Times(NamedTuple):
    """Seconds per step. `roofline`: the FLOPs at the peak, or the traffic at the memory's bandwidth, whichever is longer;
    `computing`: the compiler's cycles at the chip's clock.

    The compiler's cycles are a static count per instruction: they do not include waiting for other chips or the host.
    `exchanging` is the time that the links need for the collectives at full bandwidth. `step` is the sum of computing
    and exchanging, as if nothing overlapped.
    """

    roofline: float
    computing: float
    exchanging: float

    @property
    def step(self) -> float:
        return self.computing + self.exchanging


class DoesNotFit(Exception):
    """The compiler rejects a program that needs more memory than a device has."""

    def __init__(self, needed: int):
        super().__init__(f"needs {needed / 2**30:.2f} GiB")
        self.needed = needed  # bytes


def compile_plan(setup: Setup) -> tuple[jax.stages.Compiled, Memory, Work]:
    """Compiles the same step that training runs. Raises DoesNotFit, or ConfigError for other failures."""
    with jax.set_mesh(setup.mesh):
        lowered = trace_step(setup).lower()
    devices = setup.mesh.devices.flatten()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _refusal(str(error), state_memory(setup).total) from error
    program = Program(compiled.as_text())
    work = Work(
        product_flops(program),
        memory_traffic(program),
        tuple(collectives(program, [slice_of(device) for device in devices])),
        program.cycles(),
    )
    return compiled, _memory(setup, compiled.memory_analysis()), work


def state_memory(setup: Setup) -> Memory:
    """The memory that the state and the batch alone take."""
    state = setup.abstract_state
    parts = (state.params, state.opt_state, state.ema, state.collections, setup.abstract_batch)
    return Memory(*map(shard_bytes, parts), 0, 0, 0)


def shard_bytes(tree) -> int:
    """Bytes of one device's share of a tree of sharded arrays or their shapes."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _memory(setup: Setup, analysis) -> Memory:
    known = state_memory(setup)
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    padding = analysis.argument_size_in_bytes - known.total
    return known._replace(
        activations=analysis.temp_size_in_bytes + max(outputs, 0),
        program=analysis.generated_code_size_in_bytes,
        padding=max(padding, 0),
    )


def _refusal(message: str, arguments: int) -> Exception:
    """The exception for libtpu's "Used 40.46G of 15.75G hbm" or "HLO temporaries (1.47T)" plus arguments; G is 2**30."""
    size = r"([\d.]+)([KMGT])"
    if used := re.search(f"Used {size} of {size} hbm", message):
        return DoesNotFit(_bytes(*used.groups()[:2]))
    if temporaries := re.search(rf"HLO temporaries \({size}\) exceeds", message):
        return DoesNotFit(_bytes(*temporaries.groups()) + arguments)
    return ConfigError(f"the compiler refuses this step: {message.strip().splitlines()[0]}")


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def estimated_times(work: Work, chip: Chip, peak: float) -> Times:
    """Seconds per step of `work` on chips with a peak of `peak` FLOP/s each."""
    roofline = max(work.flops / peak, work.traffic / chip.bandwidth)
    return Times(roofline, work.cycles / chip.clock, sum(seconds(exchange, chip) for exchange in work.collectives))


def seconds(exchange: Collective, chip: Chip) -> float:
    """Seconds of an exchange if every link of a chip is busy all the time; a network of unknown speed counts as 0."""
    across = exchange.received_across
    return (exchange.received - across) / chip.links + (across / chip.network if chip.network else 0.0)
