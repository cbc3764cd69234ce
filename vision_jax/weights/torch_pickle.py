"""Reads pickles as torch writes them, without running anything.

A pickle is a program for a small stack machine, and Python's own machine calls whatever functions the program names. This
one imports nothing and calls nothing that a file names: a global is a name, and a call of one of the few allowed names
gives the description of a tensor, a dict or an inert record. Any other name or opcode is refused. This follows torch's
own reader of weights (torch/_weights_only_unpickler.py), with records for the objects that accompany them.
"""

import pickletools
from typing import Any, BinaryIO

from vision_jax import limits
from vision_jax.files import printable
from vision_jax.weights.tensors import DTYPES, File, check_count
from vision_jax.weights.torch_objects import (
    CALLS,
    MAPPINGS,
    RECORDS,
    STORAGES,
    TORCH_DTYPES,
    Global,
    Record,
    Storage,
    StridedTensor,
    new_mapping,
    new_object,
    set_items,
)

_LONGEST_NUMBER = 1024  # bits; torch writes one of 80, and more than 4,300 digits cannot be printed


def load(
    data: bytes | BinaryIO, file: File, is_script: bool = False, steps: int = limits.PICKLE_STEPS
) -> tuple[Any, dict[str, Storage]]:
    """What a pickle builds, and the storages that it names. A stream is left just after the pickle's end.

    is_script: TorchScript's classes, `__torch__...`, become records, too. steps: how many the pickle may take.
    Raises ConfigError naming the first thing that is not allowed; nothing in the file is ever run.
    """
    machine = _Machine(file, is_script, steps)
    with file.parsing("the pickle"):
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (root,) = machine.stack
    return root, machine.storages


class _Machine:
    def __init__(self, file: File, is_script: bool, steps: int):
        self.file, self.is_script, self.steps = file, is_script, steps
        self.stack, self.below = [], []
        self.calls = 0
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise self.file.error("the pickle takes more steps than any checkpoint needs: it is built to be endless")

    def step(self, opcode: str, argument: Any) -> None:
        self.spend(1)
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "INT" | "LONG" | "LONG1" | "LONG4":
                if argument.bit_length() > _LONGEST_NUMBER:
                    raise ValueError(f"a number of {argument.bit_length()} bits")
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case (
                "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8"
            ):
                stack.append(argument)
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.marked()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if argument >= 2**32:
                    raise ValueError(f"no place {argument} of the memo")
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                items = tuple(stack[-count:])
                if len(items) < count:
                    raise ValueError("nothing is on the stack")
                stack[-count:] = [items]
            case "TUPLE":
                self.push(tuple(self.marked()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                self.push(self.marked())
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = self.marked()
                _extend(self.stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                self.push(set_items({}, self.marked()))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = self.marked()
                set_items(self.stack[-1], items)
            case "EMPTY_SET":
                stack.append(Record("builtins.set"))
            case "ADDITEMS":
                self.marked()
            case "FROZENSET":
                self.marked()
                self.push(Record("builtins.frozenset"))
            case "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self.named(module, name))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.called(function, arguments))
            case "NEWOBJ":
                _, kind = stack.pop(), stack.pop()
                stack.append(new_object(kind))
            case "NEWOBJ_EX":
                _, _, kind = stack.pop(), stack.pop(), stack.pop()
                stack.append(new_object(kind))
            case "BUILD":
                state = stack.pop()
                self.spend(_build(stack[-1], state))
            case "BINPERSID":
                stack.append(self.storage(*stack.pop()))
            case _:
                raise self.file.error(f"the pickle has the opcode {opcode}, which no weights need; nothing was run")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list:
        """Removes and returns the items above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def named(self, module: Any, name: Any) -> Global:
        if type(module) is not str or type(name) is not str:
            raise ValueError("the name of a global is no text")
        full = f"{module}.{name}"
        is_known = full in STORAGES or full in TORCH_DTYPES or full in MAPPINGS or full in CALLS or full in RECORDS
        is_module = self.is_script and (module == "__torch__" or module.startswith("__torch__."))
        if "." in name or not (is_known or is_module):
            raise self.file.error(
                f"the pickle names '{printable(full)}', which is no part of weights: nothing was run; "
                "where you trust the file, load it with torch and save model.state_dict() alone"
            )
        return Global(full)

    def called(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Global or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        if function.name in CALLS:
            self.calls += 1
            check_count(self.file, self.calls // 2)  # a parameter is a call around its tensor's call
            return CALLS[function.name](*arguments)
        if function.name in MAPPINGS:
            self.spend(sum(len(argument) for argument in arguments[:2] if type(argument) in (dict, list)))
            return new_mapping(*arguments)
        if function.name in RECORDS:
            return Record(function.name)
        raise self.file.error(f"the pickle calls '{printable(function.name)}', which is no function; nothing was run")

    def storage(self, kind: Any, storage_type: Any, key: Any, location: Any, count: Any, view: Any = None) -> Storage:
        if kind != "storage" or type(storage_type) is not Global or storage_type.name not in STORAGES:
            raise ValueError("a reference to something that is no storage")
        if type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("a storage without a name or size")
        if view is not None:
            raise self.file.error("storages that are views are not read; load the file with torch and save it again")
        dtype = STORAGES[storage_type.name] and DTYPES[STORAGES[storage_type.name]]
        storage = Storage(dtype, key, count * (dtype.itemsize if dtype else 1))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage '{key}' has two types or sizes")
        return storage


def _extend(target: Any, items: list) -> None:
    if type(target) is list:
        target.extend(items)
    elif type(target) is not Record:  # a subclass of list, whose items are not needed
        raise ValueError("items for what is no list")


def _build(target: Any, state: Any) -> int:
    """How many items were copied."""
    if type(target) is Record:
        parts = [part for part in (state[:2] if type(state) is tuple else (state,)) if type(part) is dict]
        for part in parts:  # __dict__ and __slots__
            target.fields.update(part)
        return sum(map(len, parts))
    if type(target) not in (dict, list, StridedTensor):  # these may have attributes, such as a state_dict's _metadata
        raise ValueError("attributes for what is no object")
    return 0
