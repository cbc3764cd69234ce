"""Entries of the layers that torch's modules keep as `weight` and `bias`."""

from vision_jax.weights.mapping import Entry


def norm(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}/scale", f"{theirs}.weight"), Entry(f"{ours}/bias", f"{theirs}.bias")]


def dense(ours: str, theirs: str, bias: bool = True, part: tuple[int, int] = (0, 1)) -> list[Entry]:
    """Of a Linear, or of one of several that lie in it one below the other."""
    return _kernel(ours, theirs, "linear", bias, part)


def conv(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    return _kernel(ours, theirs, "conv", bias)


def _kernel(ours: str, theirs: str, layout: str, bias: bool, part: tuple[int, int] = (0, 1)) -> list[Entry]:
    kernel = Entry(f"{ours}/kernel", f"{theirs}.weight", layout, part)
    return [kernel, Entry(f"{ours}/bias", f"{theirs}.bias", part=part)] if bias else [kernel]
