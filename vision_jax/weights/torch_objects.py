"""What a pickle of weights may build: descriptions of tensors, dicts and inert records. No name in a file is imported."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from vision_jax.weights.tensors import DTYPES, checked_shape


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function that a pickle names, such as "torch.FloatStorage"."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where the values of tensors are: `key` names it, `size` is in bytes; without a dtype, each tensor has its own."""

    dtype: np.dtype | None
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class StridedTensor:
    """A view of a storage; offset and strides are in elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        if len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has {len(self.shape)} sides and {len(self.strides)} strides")
        checked_shape(self.shape, self.dtype)
        if any(type(number) is not int or number < 0 for number in (self.offset, *self.shape, *self.strides)):
            raise ValueError("sizes, strides and offsets of tensors must be whole numbers from 0")
        if (self.offset + self.extent) * self.dtype.itemsize > self.storage.size:
            raise ValueError(f"a tensor reaches over the end of its storage '{self.storage.key}'")

    @property
    def extent(self) -> int:
        """The number of elements from its first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))


@dataclasses.dataclass
class Record:
    """An object of the class `name`, with only its plain fields."""

    name: str
    fields: dict = dataclasses.field(default_factory=dict)


STORAGES = {
    "torch.storage.UntypedStorage": None,
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
}
TORCH_DTYPES = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_BUILTINS = "object dict list tuple set frozenset int float bool str bytes bytearray complex".split()  # noqa: SIM905
# Classes and functions whose objects accompany the weights in training checkpoints: settings, counters, paths. None is
# imported; their objects become records.
RECORDS = {
    f"{module}.{name}"
    for module, names in {
        "argparse": ["Namespace"],
        "types": ["SimpleNamespace"],
        "yacs.config": ["CfgNode"],
        "pytorch_lightning.utilities.parsing": ["AttributeDict"],
        "lightning_fabric.utilities.data": ["AttributeDict"],
        "omegaconf.dictconfig": ["DictConfig"],
        "omegaconf.listconfig": ["ListConfig"],
        "omegaconf.base": ["ContainerMetadata", "Metadata"],
        "omegaconf.nodes": ["AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode"],
        "typing": ["Any"],
        "pathlib": ["Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"],
        "datetime": ["datetime", "date", "timedelta"],
        "numpy": ["dtype", "ndarray"],
        "numpy.core.multiarray": ["scalar", "_reconstruct"],
        "numpy._core.multiarray": ["scalar", "_reconstruct"],
        "numpy.dtypes": ["Float64DType", "Float32DType", "Int64DType", "Int32DType", "BoolDType"],
        "_codecs": ["encode"],
        "torch": ["device", "Size", "Tensor"],
        "torch.nn.parameter": ["Parameter", "Buffer"],
        "builtins": _BUILTINS,
        "__builtin__": [*_BUILTINS, "long", "unicode"],
    }.items()
    for name in names
}


def set_items(target: Any, items: list) -> dict:
    fields = target.fields if type(target) is Record else target
    if type(fields) is not dict or len(items) % 2:
        raise ValueError("items for what is no dict")
    fields.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if _is_key(key))
    return fields


def _is_key(key: Any) -> bool:
    """Whether a key may name a tensor. Hashing nested tuples, or large numbers chosen to collide, can take forever."""
    return type(key) is str or (type(key) is int and abs(key) < sys.hash_info.modulus)


def new_object(kind: Any) -> dict | Record:
    if type(kind) is not Global or not (kind.name in MAPPINGS | RECORDS or kind.name.startswith("__torch__.")):
        raise ValueError("an object of what is no class")
    return {} if kind.name in MAPPINGS else Record(kind.name)


def new_mapping(*arguments: Any) -> dict:
    """The dict of OrderedDict(pairs) as Python 2 wrote it, of Counter(dict), or of defaultdict(factory, pairs)."""
    mapping: dict = {}
    for argument in arguments[:2]:
        pairs = argument.items() if type(argument) is dict else argument if type(argument) is list else ()
        for key, value in pairs:
            set_items(mapping, [key, value])
    return mapping


def _tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> StridedTensor:
    return _view(storage, storage.dtype, offset, shape, strides, metadata)


def _tensor_of_dtype(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> StridedTensor:
    return _view(storage, TORCH_DTYPES[dtype.name], offset, shape, strides, metadata)


def _view(storage, dtype, offset, shape, strides, metadata) -> StridedTensor:
    if type(storage) is not Storage or dtype is None or type(shape) is not tuple or type(strides) is not tuple:
        raise ValueError("a tensor without storage, dtype, shape or strides")
    if metadata:
        raise ValueError("a tensor that is conjugated or negated when read")
    return StridedTensor(storage, dtype, offset, shape, strides)


def _parameter(tensor, requires_grad=True, hooks=None, state=None) -> StridedTensor:
    if type(tensor) is not StridedTensor:
        raise ValueError("a parameter without tensor")
    return tensor


def _typed(function, kind, arguments, state=None) -> StridedTensor:
    return _parameter(CALLS[function.name](*arguments))


CALLS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.jit._pickle.build_intlist": lambda items: items,
    "torch.jit._pickle.build_doublelist": lambda items: items,
    "torch.jit._pickle.build_boollist": lambda items: items,
    "torch.jit._pickle.build_tensorlist": lambda items: items,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    "copyreg._reconstructor": lambda kind, base, state: new_object(kind),
    "copy_reg._reconstructor": lambda kind, base, state: new_object(kind),
}
