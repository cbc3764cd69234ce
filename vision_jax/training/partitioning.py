"""Where every array lives: the mesh, and the rules from parameter paths to PartitionSpecs.

The mesh always has the axes ("data", "fsdp", "tensor"), any of which may be 1. The batch is split over data and fsdp.
A rule places the tensor axis; fsdp then takes the largest remaining axis that it divides (ZeRO-3, Rajbhandari et al.,
2020). Optimizer moments and the average carry the paths of their parameters, so that the same rules place them.
"""

import math
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.models.stacking import path_name
from vision_jax.ops.sharding import BATCH_AXES
from vision_jax.patterns import path_pattern
from vision_jax.values import shown

AXES = ("data", "fsdp", "tensor")

# Megatron's split (Shoeybi et al., 2019): heads and MLP width over the tensor axis, so that each block needs one
# reduction after the attention and one after the MLP. Axes are those of the unstacked parameter.
TENSOR_RULES = (
    (r".*attn/(query|key|value)/kernel", (None, "tensor")),
    (r".*attn/(query|key|value)/bias", ("tensor",)),
    (r".*attn/out/kernel", ("tensor", None)),
    (r".*mlp/fc1/kernel", (None, "tensor")),
    (r".*mlp/fc1/bias", ("tensor",)),
    (r".*mlp/fc2/kernel", ("tensor", None)),
)


def make_mesh(config, devices=None) -> Mesh:
    """The mesh that `config.mesh` describes over `devices` (default: all). Raises ConfigError if they do not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.mesh[axis] for axis in AXES]
    across = [config.mesh.across[axis] for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes) or min(across) < 1:
        raise ConfigError(
            f"config.mesh: sizes must be positive, at most one -1; got {dict(zip(AXES, sizes, strict=True))}"
        )
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        wanted = " x ".join(f"{axis}={config.mesh[axis]}" for axis in AXES)
        raise ConfigError(f"config.mesh: {wanted} does not fill the {len(devices)} devices of this run")
    across = share_slices(sizes, across, count_slices(devices))
    if math.prod(across) > 1:
        within = [size // factor for size, factor in zip(sizes, across, strict=True)]
        grid = mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    elif devices[0].platform == "cpu":  # create_device_mesh would warn about an unknown topology
        grid = np.array(devices).reshape(sizes)
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def slice_of(device) -> int:
    """The slice of a device: its group of devices with fast links between them; 0 if there is only one."""
    return getattr(device, "slice_index", 0) or 0


def count_slices(devices) -> int:
    return len(set(map(slice_of, devices)))


def share_slices(sizes: list[int], across: list[int], slices: int) -> list[int]:
    """The factor of each axis that lies across `slices`: `across`, or if that says nothing, the first axis that can.

    Raises ConfigError if the axes cannot be divided like that.
    """
    if math.prod(across) == 1 and slices > 1:
        able = [axis for axis, size in enumerate(sizes) if size % slices == 0]
        across = [slices if axis in able[:1] else 1 for axis in range(len(sizes))]
    named = dict(zip(AXES, across, strict=True))
    if any(size % factor for size, factor in zip(sizes, across, strict=True)):
        raise ConfigError(f"config.mesh.across: {named} must divide the axes' sizes {sizes}")
    if math.prod(across) != slices:
        raise ConfigError(f"config.mesh.across: {named} must make up the {slices} slice(s) of this run")
    return across


def check_batch(config, mesh: Mesh) -> None:
    """Raises ConfigError unless every micro-batch splits evenly over the mesh's batch axes."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    micro = config.optimizer.accumulate
    if micro < 1 or config.batch_size < 1 or config.batch_size % (ways * micro):
        raise ConfigError(
            f"config.batch_size={config.batch_size} must be a multiple of {ways * micro}:"
            f" {ways} devices along the batch (data x fsdp) times {micro} micro-batches (optimizer.accumulate)"
        )


def check_heads(model, mesh: Mesh) -> None:
    """Raises ConfigError unless the heads of each attention split evenly over the mesh's tensor axis."""
    ways = mesh.shape["tensor"]
    for field, heads in attention_heads(model).items():
        if any(each % ways for each in np.ravel(heads)):
            raise ConfigError(
                f"config.mesh.tensor={ways} must divide the attention heads, model field '{field}' is {heads}"
            )


def attention_heads(model) -> dict[str, int | tuple[int, ...]]:
    """The fields of a model that hold the number of heads of its blocks; for CLIP's image tower, called image.FIELD."""
    found = {name: getattr(model, name) for name in model.__dataclass_fields__ if name.endswith("num_heads")}
    if hasattr(model, "image_module"):
        tower = attention_heads(model.image_module(parent=None))
        found |= {f"image.{name}": heads for name, heads in tower.items()}
    return {name: heads for name, heads in found.items() if heads is not None}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def param_spec(name: str, shape: tuple, mesh_shape: dict, rules=(), fsdp_min_size: int = 0) -> PartitionSpec:
    """The PartitionSpec of one array by its path: user rules, the tensor rules, then fsdp on the largest free axis.

    `rules` are (regular expression, axes) pairs: the first that matches the whole path counts, axes aligned to the trailing
    dimensions. A stack of scanned layers (`blocks/...`) keeps its leading axis whole and is judged by one layer's size.
    """
    layers = 1 if re.search(r"(^|/)blocks/", name) and shape else 0
    own = next((axes for pattern, axes in rules if re.fullmatch(pattern, name)), None)
    if own is not None:
        if len(own) > len(shape):
            raise ConfigError(f"config.mesh.rules: {own} names more axes than '{name}' of shape {shape} has")
        return PartitionSpec(*[None] * (len(shape) - len(own)), *own)
    spec: list = [None] * len(shape)
    tensor = next((axes for pattern, axes in TENSOR_RULES if re.fullmatch(pattern, name)), ())
    if len(tensor) == len(shape) - layers:
        for dim, axis in enumerate(tensor, layers):
            if axis and shape[dim] % mesh_shape[axis] == 0:
                spec[dim] = axis
    if mesh_shape["fsdp"] > 1 and math.prod(shape[layers:]) >= max(fsdp_min_size, 1):
        free = [d for d in range(layers, len(shape)) if spec[d] is None and shape[d] % mesh_shape["fsdp"] == 0]
        if free:
            spec[max(free, key=lambda d: shape[d])] = "fsdp"
    return PartitionSpec(*spec)


def state_shardings(config, mesh: Mesh, abstract_state):
    """A NamedSharding for every array of the state, by its path. Raises ConfigError if a user's rule is wrong."""
    rules, sizes, least = config.mesh.rules, dict(mesh.shape), config.mesh.fsdp_min_size
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract_state)]
    parameters = {name.removeprefix("params/") for name in names if name.startswith("params/")}
    for rule in rules:
        _check_rule(rule, sorted(parameters))

    def sharding(path, leaf):
        parts = path_name(path).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))  # opt_state/0/mu/head/kernel: head/kernel
        parameter = next((end for end in ends if end in parameters), None)
        spec = param_spec(parameter or path_name(path), leaf.shape, sizes, rules if parameter else (), least)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def _check_rule(rule, parameters: list[str]) -> None:
    """Raises ConfigError unless it is a pair of a regular expression that matches parameters, and a mesh axis per axis."""
    if type(rule) is not tuple or len(rule) != 2 or not isinstance(rule[0], str) or not isinstance(rule[1], tuple):
        raise ConfigError(f"config.mesh.rules: expected (regular expression, (axis, ...)) pairs, got {shown(rule)}")
    path_pattern("config.mesh.rules", rule[0], parameters)
    axes = [name for entry in rule[1] if entry for name in (entry if isinstance(entry, tuple) else (entry,))]
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(f"config.mesh.rules: unknown mesh axis {shown(axis)}{did_you_mean(axis, AXES)}")
    if len(set(axes)) < len(axes):
        raise ConfigError(f"config.mesh.rules: {shown(rule)} names a mesh axis twice")
