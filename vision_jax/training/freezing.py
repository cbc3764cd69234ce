"""Frozen modules compute what they compute in evaluation."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax


@contextlib.contextmanager
def frozen_as_evaluated(trains: Mapping | None) -> Iterator[None]:
    """Inside, a module whose parameters are all frozen, such as a locked tower or norm, is called as in evaluation.

    It uses its stored statistics, which do not change, and applies no dropout (but a frozen block of a tower that trains
    keeps its drop path). A module without parameters acts like the one around it. `trains`: a bool for every parameter,
    nested like the parameters; None: nothing is frozen.
    """

    def intercept(call, args, kwargs, context):
        module = context.module
        method = getattr(type(module), context.method_name, None)  # None: a function scanned over the module
        if method is None or module.scope is None or not is_frozen(trains, module.path):
            return call(*args, **kwargs)
        bound = inspect.signature(method).bind(module, *args, **kwargs)
        if bound.arguments.get("train"):
            bound.arguments["train"] = False
        if bound.arguments.get("use_running_average") is False:
            bound.arguments["use_running_average"] = True
        return call(*bound.args[1:], **bound.kwargs)

    with contextlib.nullcontext() if trains is None else nn.intercept_methods(intercept):
        yield


def is_frozen(trains: Mapping, path: tuple[str, ...]) -> bool:
    """Whether the module at `path` has parameters and none of them trains."""
    for name in path:
        if not isinstance(trains, Mapping) or name not in trains:
            return False
        trains = trains[name]
    leaves = jax.tree.leaves(trains)
    return bool(leaves) and not any(leaves)
