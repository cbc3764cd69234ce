"""FLOPs of the matrix products and convolutions that a compiled program runs, two per multiply-add."""

import math
import re
from typing import NamedTuple

import numpy as np

from vision_jax.planning.hlo import Instruction, Program, array_shape


def product_flops(program: Program) -> int:
    """FLOPs on one device in one run of the program, including recomputed work and work repeated on several devices.

    XLA's own count (`Compiled.cost_analysis`) counts a loop's body only once.
    """
    return sum(
        times * flops(program.computations[computation], inner)
        for name, instruction, times in program.executed()
        for computation, inner in program.with_fused(name, instruction)
    )


def flops(known: dict[str, Instruction], instruction: Instruction) -> int:
    """FLOPs of an instruction; `known`: all of its computation. 0 if it is neither a product nor a convolution."""
    if instruction.opcode == "dot":
        left = array_shape(known[instruction.operands[0]].type)
        return 2 * math.prod(array_shape(instruction.type)) * math.prod(left[d] for d in _contracted(instruction))
    if instruction.opcode == "convolution":
        left, kernel = (array_shape(known[name].type) for name in instruction.operands[:2])
        return _convolution(left, kernel, array_shape(instruction.type), instruction.attributes)
    return 0


def _contracted(instruction: Instruction) -> list[int]:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    return [int(n) for n in found[1].split(",") if n] if found else []


class Window(NamedTuple):
    """A convolution's window along one axis."""

    size: int
    stride: int = 1
    before: int = 0  # padding
    input_dilation: int = 1
    dilation: int = 1

    def multiplied(self, length: int, results: int) -> int:
        """The number of pairs of a result and a window position that fall on one of the `length` input elements.

        A TPU's batched product is a convolution whose dilated windows hit one element each: most pairs hit none.
        """
        starts = np.arange(results)[:, None] * self.stride - self.before
        places = starts + np.arange(self.size) * self.dilation
        inside = (places >= 0) & (places <= (length - 1) * self.input_dilation) & (places % self.input_dilation == 0)
        return int(inside.sum())


def _convolution(left: list[int], kernel: list[int], result: list[int], attributes: str) -> int:
    left_axes, kernel_axes, result_axes = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes).groups()
    total = 2 * result[result_axes.index("b")] * result[result_axes.index("f")] * kernel[kernel_axes.index("i")]
    for number, window in enumerate(_windows(attributes)):
        axis = str(number)
        total *= window.multiplied(left[left_axes.index(axis)], result[result_axes.index(axis)])
    return total


def _windows(attributes: str) -> list[Window]:
    """Windows from "window={size=16x3 stride=15x1 pad=0_0x1_1 lhs_dilate=16x1 rhs_dilate=1x1}"; [] without one."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    if found is None:
        return []
    said = {name: values.split("x") for name, values in (part.split("=") for part in found[1].split())}
    count = len(said["size"])
    fields = [
        map(int, said["size"]),
        map(int, said.get("stride", [1] * count)),
        (int(pair.split("_")[0]) for pair in said.get("pad", ["0_0"] * count)),
        map(int, said.get("lhs_dilate", [1] * count)),
        map(int, said.get("rhs_dilate", [1] * count)),
    ]
    return [Window(*values) for values in zip(*fields, strict=True)]
