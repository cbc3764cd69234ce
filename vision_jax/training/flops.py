"""FLOPs of a function, counted from its jaxpr: matrix products and convolutions, two per multiply-add.

The compiler's own count ignores how often a scanned loop runs and differs by backend; this one depends on the model only.
"""

import math

import jax


def count_flops(function, *args) -> int:
    """FLOPs of one call with arguments of these shapes; computes nothing."""
    return count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def count_jaxpr(jaxpr) -> int:
    """FLOPs of one evaluation of a jaxpr, on all devices together."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            length = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * length
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
        else:
            total += _repeats(eqn) * sum(map(count_jaxpr, _inner(eqn)))
    return total


def _repeats(eqn) -> int:
    """How often the jaxpr inside an equation runs: once per element for a scan, on every device for a shard_map."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":
        return math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])
    return 1


def _inner(eqn):
    """The jaxprs inside an equation: bodies of jit, scan, remat and custom derivatives; for a cond, its largest branch."""
    if "branches" in eqn.params:
        return [max((branch.jaxpr for branch in eqn.params["branches"]), key=count_jaxpr)]
    values = (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"))
    return [getattr(value, "jaxpr", value) for value in values if value is not None][:1]
