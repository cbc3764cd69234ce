"""Sources: random access to labelled images, and the specifications that name them."""

import math
import re
from typing import NotRequired, Protocol, TypedDict

import numpy as np

from vision_jax.config import SOURCE
from vision_jax.data.sources.digits import Digits
from vision_jax.data.sources.folder import Folder
from vision_jax.data.sources.mix import Mix
from vision_jax.data.sources.shapes import Shapes
from vision_jax.data.sources.share import Share
from vision_jax.data.sources.tfds import Tfds
from vision_jax.data.sources.wds import Wds
from vision_jax.errors import ConfigError


class Example(TypedDict):
    image: bytes | np.ndarray  # an encoded file, or uint8[H, W, C]
    label: int
    name: str  # for messages: which file or record this is
    captions: NotRequired[tuple[str, ...]]  # texts that describe the picture; absent where a source has none


class Source(Protocol):
    """Random access to examples. A source is picklable: every worker process gets a copy."""

    num_classes: int
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_source(spec: str | tuple, *, tfds_dir: str = "") -> Source:
    """The source that `spec` names.

    Args:
        spec: "digits:train", "digits:test", "shapes:train", "shapes:test", "folder:PATH", "tfds:NAME:SPLIT",
            "wds:PATH/{000..099}.tar", or ((spec, weight), ...) for a mix whose examples come in the proportions of the
            weights (its classes: see `Mix`). "folder:PATH[:10%]" and "digits:train[:10%]" are the first tenth of each
            class; TFDS has slices of its own, "tfds:NAME:train[:10%]", which know no classes.
        tfds_dir: folder of prepared TFDS data sets; empty: TFDS's own default.

    Raises:
        ConfigError: the specification, or what it names, cannot be used; the message says what would be right.
    """
    if isinstance(spec, tuple | list):
        return _open_mix(tuple(spec), tfds_dir)
    kind, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind in ("digits", "folder") and (share := re.fullmatch(r"(.*)\[:(\d+)%\]", rest)):
        return Share(open_source(f"{kind}:{share[1]}"), int(share[2]))
    match kind:
        case "digits":
            return Digits(rest)
        case "folder":
            return Folder(rest)
        case "shapes":
            return Shapes(rest)
        case "tfds":
            return Tfds(rest, tfds_dir)
        case "wds":
            return Wds(rest)
    raise ConfigError(f"no such data source: {spec!r}; expected {SOURCE}")


def _open_mix(pairs: tuple, tfds_dir: str) -> Mix:
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConfigError(f"a mix of data sources is a list of (source, weight) pairs, got {pair!r} in it")
        if not (isinstance(pair[1], int | float) and 0 < pair[1] < math.inf):
            raise ConfigError(f"the weight of data source {pair[0]!r} must be a positive number, got {pair[1]!r}")
    if not pairs:
        raise ConfigError("a mix of data sources needs at least one (source, weight) pair")
    names, weights = zip(*pairs, strict=True)
    return Mix(names, [open_source(name, tfds_dir=tfds_dir) for name in names], weights)
