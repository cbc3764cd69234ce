"""What the devices of a compiled program exchange, and the least time that their links need for it."""

import math
import re
from typing import NamedTuple

import numpy as np

from vision_jax.planning.hlo import Instruction, Program, type_bytes

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    kind: str
    bytes: int  # of the whole array that a group gathers, reduces or exchanges, on one device
    group: int  # devices per group
    slices: int  # slices that a group spans
    count: int  # how often it runs

    @property
    def received(self) -> float:
        """Total bytes that a device receives with the best algorithm, a ring."""
        rounds = {"all-reduce": 2.0, "collective-permute": self.group / (self.group - 1)}.get(self.kind, 1.0)
        return self.count * self.bytes * rounds * (self.group - 1) / self.group

    @property
    def received_across(self) -> float:
        """The received bytes that come from other slices; the devices of a slice split these among themselves."""
        if self.kind == "collective-permute":
            return self.received if self.slices > 1 else 0.0
        rounds = 2.0 if self.kind == "all-reduce" else 1.0
        return self.count * rounds * self.bytes * (self.slices - 1) / self.group


def collectives(program: Program, slice_of: list[int]) -> list[Collective]:
    """What the devices exchange in one run of the program, largest first, with equal exchanges counted together.

    `slice_of`: the slice of each device, in the order of the mesh. Exchanges within one device do not count.
    """
    found: dict[tuple, int] = {}
    for computation, instruction, times in program.executed():
        for fusion, inner in program.with_fused(computation, instruction):
            # A TPU overlaps an exchange with other work as a chain of fusions that all contain it: count only the first.
            if "chain_id=" in inner.attributes and not instruction.name.startswith("async-collective-start"):
                continue
            exchange = _exchange(fusion, inner, slice_of)
            if exchange and exchange[2] > 1:
                found[exchange] = found.get(exchange, 0) + times
    return sorted((Collective(*exchange, count) for exchange, count in found.items()), key=lambda c: -c.received)


def _exchange(fusion: str, instruction: Instruction, slice_of: list[int]) -> tuple[str, int, int, int] | None:
    """(kind, bytes, group, slices) of an instruction in a fusion's computation; None if it is not an exchange."""
    kind = instruction.opcode.removesuffix("-start")
    if kind == "recv" and (transfer := re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)):
        slices = len(set(slice_of))  # between slices, devices at the same position exchange through their hosts
        kind = transfer[1].lower().replace("_", "-")
        kind = kind if kind in KINDS else "collective-permute"
        payload = type_bytes(instruction.type) - type_bytes("u32[]")
        return kind, payload * (slices if kind == "reduce-scatter" else 1), slices, slices
    if kind not in KINDS:
        return None
    groups = replica_groups(instruction.attributes, len(slice_of))
    group = max(map(len, groups))
    slices = max(len({slice_of[device] for device in members}) for members in groups)
    if fusion.startswith("all-reduce-scatter"):  # a TPU's reduce-scatter: a slice of an all-reduce
        return "reduce-scatter", type_bytes(instruction.type), group, slices
    return kind, _payload(instruction, kind, group), group, slices


def _payload(instruction: Instruction, kind: str, group: int) -> int:
    size = type_bytes(instruction.type)
    if instruction.opcode == "all-gather-start":
        return size * group // (group + 1)  # its result is (operand, gathered)
    if instruction.opcode == "collective-permute-start":
        return type_bytes(re.sub(r"u32\[\]", "", instruction.type)) // 2  # (operand, result, two flags)
    return size * group if kind == "reduce-scatter" else size


def replica_groups(attributes: str, devices: int) -> list[list[int]]:
    """A collective's groups of devices, from any of XLA's notations; if it names none, all devices form one group."""
    if pairs := re.search(r"source_target_pairs=\{\{(.*?)\}\}", attributes):
        return [_ints(pair) for pair in pairs[1].split("},{")]
    if listed := re.search(r"replica_groups=\{\{(.*?)\}\}", attributes):
        return [_ints(group) for group in listed[1].split("},{")]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        return _iota(iota[2], iota[3]).reshape(_ints(iota[1])).tolist()
    notation = r"replica_groups=mesh\[([^\]]*)\](?:,?\s*device_ids=\(?\[([\d,]+)\](?:T\(([\d,]+)\))?\)?)?\s*\{([^}]*)\}"
    if mesh := re.search(notation, attributes):
        names, sizes = zip(*re.findall(r"'([^']+)'=(\d+)", mesh[1]), strict=True)
        sizes = list(map(int, sizes))
        ids = _iota(mesh[2], mesh[3]) if mesh[2] else np.arange(math.prod(sizes))
        inside = [names.index(name) for name in re.findall(r"'([^']+)'", mesh[4])]
        outside = [axis for axis in range(len(names)) if axis not in inside]
        size = math.prod(sizes[axis] for axis in inside)
        return ids.reshape(sizes).transpose(*outside, *inside).reshape(-1, size).tolist()
    if "replica_groups={}" in attributes or "replica_groups" not in attributes:
        return [list(range(devices))]
    raise ValueError(f"unknown notation of replica groups: {attributes[:200]}")


def _iota(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_ints(sizes))).reshape(_ints(sizes))
    return ids.transpose(_ints(order)) if order else ids


def _ints(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
