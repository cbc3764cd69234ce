"""Whether a config fits the devices it is meant for, and how long a step and the whole recipe take on them."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from vision_jax.config import from_dict, to_dict
from vision_jax.errors import ConfigError
from vision_jax.planning.compiled import DoesNotFit, Memory, Times, Work, compile_plan, estimated_times, state_memory
from vision_jax.planning.topology import Chip
from vision_jax.training.partitioning import count_slices, make_mesh
from vision_jax.training.setup import Setup, prepare, with_process_settings
from vision_jax.training.throughput import peak_flops

# From the fastest to the least memory: (remat, micro-batches).
FRUGALITY = (("none", 1), ("dots", 1), ("full", 1), ("none", 2), ("full", 2), ("none", 4), ("full", 4), ("full", 8))
TENSOR_WAYS = (1, 2, 4, 8)


class Plan(NamedTuple):
    """What a config needs on `devices` devices. `memory` and `needed` are bytes on one device."""

    settings: dict
    device_kind: str
    devices: int
    mesh: dict[str, int]
    memory: Memory  # without what lives only within the step, if the compiler rejected it
    needed: int
    capacity: int
    model_flops: int  # per step on all devices, without recomputation
    steps: int
    work: Work | None = None  # of one device; None if it does not fit
    times: Times | None = None  # the compiler's estimate
    measured: float | None = None  # measured seconds per step
    peak: float | None = None  # FLOP/s of all devices
    chip: Chip | None = None  # what each device has, if time is estimated

    @property
    def fits(self) -> bool:
        return self.work is not None and self.needed <= self.capacity

    @property
    def state_fits(self) -> bool:
        return self.work is not None or self.memory.total <= self.capacity

    @property
    def seconds(self) -> float | None:
        """Seconds per step, estimated or measured."""
        return self.times.step if self.times else self.measured

    @property
    def mfu(self) -> float | None:
        return self.model_flops / (self.peak * self.seconds) if self.peak and self.seconds else None

    @property
    def hours(self) -> float | None:
        """Hours for all steps of the recipe, without evaluation, checkpoints and waiting for data."""
        return self.seconds and self.steps * self.seconds / 3600


@with_process_settings
def make_plan(config, source, devices, chip: Chip | None = None, measure: Callable | None = None) -> Plan:
    """Compiles `config`'s train step for `devices`; nothing is run on them unless by `measure`.

    `source`: its training data, or an outline of it. `chip`: what each device has, if time is to be estimated.
    `measure(setup, compiled)`: the seconds per step. Raises ConfigError for a config that cannot run anywhere.
    """
    setup = prepare(config, devices=devices, source=source)
    known = state_memory(setup)
    plan = Plan(
        _settings(setup),
        devices[0].device_kind,
        len(devices),
        dict(setup.mesh.shape),
        known,
        known.total,
        chip.memory if chip else device_memory(devices),
        setup.flops,
        setup.derived["steps"]["duration"],
        peak=peak_flops(devices, config.log.peak_tflops),
        chip=chip,
    )
    if plan.needed > plan.capacity:
        return plan  # the state alone is too large
    try:
        compiled, memory, work = compile_plan(setup)
    except DoesNotFit as error:
        return plan._replace(needed=max(error.needed, known.total))
    plan = plan._replace(memory=memory, needed=memory.total, work=work)
    if chip:
        return plan._replace(times=estimated_times(work, chip, plan.peak / len(devices)))
    return plan._replace(measured=measure(setup, compiled)) if measure and plan.fits else plan


def device_memory(devices) -> int:
    """Bytes of memory of each device present; CPU devices share the machine's."""
    if devices[0].platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    return devices[0].memory_stats()["bytes_limit"]


def search(config, source, devices, chip: Chip | None, trials: int, measure: Callable | None = None) -> Iterator[Plan]:
    """Yields plans with other meshes, micro-batches and recomputation for the same batch.

    A mesh is tried with more and more frugal settings until one fits: more recomputation or smaller parts are slower.
    At most `trials` programs are compiled; a state that is too large costs none. Raises ConfigError if nothing can be
    tried at all.
    """
    left, error, found = trials, None, False
    for mesh in meshes(config, devices):
        for remat, accumulate in FRUGALITY:
            if left <= 0:
                return
            changed = from_dict(to_dict(config))
            changed.mesh = mesh
            changed.model.remat = remat
            changed.optimizer.accumulate = accumulate
            try:
                plan = make_plan(changed, source, devices, chip, measure)
            except ConfigError as refusal:  # such as a batch that cannot be divided
                error = error or refusal
                continue
            found = True
            yield plan
            if not plan.state_fits:
                break  # it does not fit with other settings either
            left -= 1
            if plan.fits:
                break
    if error and not found:
        raise error


def meshes(config, devices) -> list[dict[str, int]]:
    """Ways to divide the devices: the config's own first, then ever more sharding of the parameters."""
    count, slices = len(devices), count_slices(devices)
    found = [dict(make_mesh(config, devices).shape)]
    for tensor in TENSOR_WAYS:
        for fsdp in dict.fromkeys((1, max(count // slices // tensor, 1), 8, 16, 32, 64)):
            data, rest = divmod(count, tensor * fsdp)
            mesh = {"data": data, "fsdp": fsdp, "tensor": tensor}
            if rest == 0 and data and data % slices == 0 and mesh not in found:
                found.append(mesh)
    return found


def _settings(setup: Setup) -> dict:
    config = setup.config
    return {
        "model": config.model.name,
        "batch_size": config.batch_size,
        "micro_batches": config.optimizer.accumulate,
        "remat": config.model.get("remat", "none"),
        "scan": config.model.get("scan", False),
        "compute": config.precision.compute,
        "jax": jax.__version__,
    }
