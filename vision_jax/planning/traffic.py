"""Bytes that a compiled program reads from and writes to its device's main memory."""

from vision_jax.planning.hlo import Instruction, Program, main_memory_bytes, type_bytes

# Opcodes that move nothing themselves.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "async-start",
}


def memory_traffic(program: Program) -> int:
    """Bytes of the operands and results in main memory of all instructions that run.

    If an instruction takes a slice of an array, or changes a slice in place, only the slice counts.
    """
    return sum(
        times * moved(program, name, instruction)
        for name, instruction, times in program.executed()
        if instruction.opcode not in _FREE and not instruction.opcode.endswith("-done")
    )


def moved(program: Program, computation: str, instruction: Instruction) -> int:
    """Bytes moved by one run of an instruction."""
    known = program.computations[computation]
    operands = [known[name] for name in instruction.operands if name in known]
    result = main_memory_bytes(instruction.type)
    if not operands:  # a constant, or reserved memory
        return 0
    first = operands[0]
    if instruction.opcode == "slice-start":  # its result is (operand, slice)
        read = type_bytes(instruction.type) - type_bytes(first.type) if main_memory_bytes(first.type) else 0
        return read + result - main_memory_bytes(first.type)
    if instruction.opcode.endswith("-start"):  # its result holds the operands, too
        return result
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * result
    if instruction.opcode == "dynamic-update-slice":
        return 2 * main_memory_bytes(operands[1].type)
    if instruction.opcode != "fusion":
        return result + sum(main_memory_bytes(operand.type) for operand in operands)
    total = result
    for number, operand in enumerate(operands):
        if size := main_memory_bytes(operand.type):
            part, updated = touched(program, instruction.called()[0], number)
            total += size if part is None else part
            total -= size if updated else 0  # the result is the operand, changed in place
    return total


def touched(program: Program, computation: str, number: int) -> tuple[int | None, bool]:
    """(bytes of a parameter's slices that a fused computation touches, None: all; whether it writes them)."""
    inner = program.computations[computation]
    name = next(i.name for i in inner.values() if i.opcode == "parameter" and int(i.operands[0]) == number)
    return _touched(program, inner, name)


def _touched(program: Program, inner: dict[str, Instruction], name: str) -> tuple[int | None, bool]:
    parts: list[tuple[int | None, bool]] = []
    for user in (i for i in inner.values() if name in i.operands):
        if user.opcode == "dynamic-slice" and name == user.operands[0]:
            parts.append((type_bytes(user.type), False))
        elif user.opcode == "dynamic-update-slice" and name == user.operands[0]:
            parts.append((type_bytes(inner[user.operands[1]].type), True))
        elif user.opcode == "bitcast" and not user.is_root:
            parts.append(_touched(program, inner, user.name))
        elif user.opcode == "fusion":
            numbers = [number for number, operand in enumerate(user.operands) if operand == name]
            parts += [touched(program, user.called()[0], number) for number in numbers]
        else:
            parts.append((None, False))
    sizes = [size for size, _ in parts]
    return None if None in sizes else sum(sizes), any(updated for _, updated in parts)
