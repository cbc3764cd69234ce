"""Parses the text of a compiled XLA program: its instructions, how often each runs, and the sizes of their arrays."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{[\d,]*(?::([^{}]*))?\})?")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


class Instruction(NamedTuple):
    name: str
    opcode: str
    type: str  # as in the text, e.g. "(f32[8,128]{1,0}, u32[])"
    operands: tuple[str, ...]
    attributes: str  # the rest of the line
    is_root: bool

    def called(self) -> list[str]:
        """The computations that the instruction runs."""
        return _CALLED.findall(self.attributes)


class Program:
    """A module's computations by name, each with its instructions by name; it starts at `entry`."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current[match[2]] = _instruction(match[2], match[3], bool(match[1]))

    def executed(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, how often it runs): loop bodies as often as they repeat, everything else once.

        A fusion is one instruction; see `with_fused`.
        """
        return self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        for instruction in self.computations[name].values():
            yield name, instruction, times
            if instruction.opcode == "while":
                (body,) = instruction.called()
                yield from self._executed(body, times * self.trip_count(instruction))
            elif instruction.opcode == "conditional":
                yield from self._executed(self._dearest_branch(instruction), times)
            elif instruction.opcode in ("call", "async-start"):
                for called in instruction.called():
                    yield from self._executed(called, times)

    def with_fused(self, computation: str, instruction: Instruction) -> Iterator[tuple[str, Instruction]]:
        """(computation, instruction) for an instruction and all those that it fuses."""
        yield computation, instruction
        if instruction.opcode == "fusion":
            for called in instruction.called():
                for inner in self.computations[called].values():
                    yield from self.with_fused(called, inner)

    def _dearest_branch(self, instruction: Instruction) -> str:
        listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        names = re.findall(r"%?([\w.-]+)", listed[1]) if listed else instruction.called()
        return max(names, key=lambda name: sum(estimated_cycles(i) * n for _, i, n in self._executed(name, 1)))

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` repeats: as XLA says, or else from the upper bound on its counter, which starts at 0.

        A loop with another end, such as drawing until a number is accepted, counts as running once.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = self.computations[re.search(r"condition=%?([\w.-]+)", loop.attributes)[1]]
        root = next(i for i in condition.values() if i.is_root)
        if root.opcode == "compare" and "direction=LT" in root.attributes:
            counter, bound = (condition[name] for name in root.operands)
            if bound.opcode == "constant":
                return -(-int(bound.operands[0]) // self._increment(loop, counter))
        return 1

    def _increment(self, loop: Instruction, counter: Instruction) -> int:
        """What a loop's body adds to the counter in its condition: 2 if it is unrolled once, 1 if it does not say."""
        index = re.search(r"index=(\d+)", counter.attributes)
        body = self.computations[loop.called()[0]]
        result = next(i for i in body.values() if i.is_root)
        if index and result.opcode == "tuple":
            added = body[result.operands[int(index[1])]]
            steps = [body[name] for name in added.operands if name in body and body[name].opcode == "constant"]
            if added.opcode == "add" and steps:
                return int(steps[0].operands[0])
        return 1

    def cycles(self) -> int:
        """The compiler's estimate for a TPU core, without waiting for other chips; 0 for other devices."""
        return sum(times * estimated_cycles(instruction) for _, instruction, times in self.executed())


def estimated_cycles(instruction: Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(found[1]) if found else 0


def type_bytes(text: str) -> int:
    """Bytes of all arrays of a type, without the padding of its layout."""
    return sum(_bytes(dtype, shape) for dtype, shape, _ in _ARRAY.findall(text))


def main_memory_bytes(text: str) -> int:
    """Bytes of the arrays of a type that are in main memory, not in a core's memory space S(n)."""
    return sum(_bytes(dtype, shape) for dtype, shape, layout in _ARRAY.findall(text) if "S(" not in layout)


def array_shape(text: str) -> list[int]:
    """The shape of the array that a type describes."""
    return _lengths(_ARRAY.search(text)[2])


def _lengths(shape: str) -> list[int]:
    return [int(n) for n in shape.split(",") if n]


def _bytes(dtype: str, shape: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype, int(digits[0]) if digits else 8)
    return math.prod(_lengths(shape)) * bits // 8


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    """The instruction from the text after the equals sign: TYPE OPCODE(OPERANDS), ATTRIBUTES."""
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    type, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing(f"({rest}") - 1
    operands = re.findall(r"%?([\w.-]+)(?=,|$)", re.sub(r"/\*.*?\*/", "", rest[:end]))
    return Instruction(name, opcode, type, tuple(operands), rest[end + 1 :], is_root)


def _closing(text: str) -> int:
    """The position that closes the parenthesis with which `text` starts."""
    depths = itertools.accumulate({"(": 1, ")": -1}.get(character, 0) for character in text)
    return next(i for i, depth in enumerate(depths) if depth == 0)
