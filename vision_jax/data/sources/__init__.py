"""Sources: random access to labelled images, and the specifications that name them."""

import math
import re
from typing import NotRequired, Protocol, TypedDict

import numpy as np

from vision_jax import parts
from vision_jax.data.sources.mix import Mix
from vision_jax.data.sources.own import Own
from vision_jax.data.sources.share import Share
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.schema import SOURCE

SOURCES = {
    "digits": "vision_jax.data.sources.digits:Digits",
    "folder": "vision_jax.data.sources.folder:Folder",
    "csv": "vision_jax.data.sources.csv:Csv",
    "shapes": "vision_jax.data.sources.shapes:Shapes",
    "tfds": "vision_jax.data.sources.tfds:Tfds",
    "wds": "vision_jax.data.sources.wds:Wds",
}
_SHARE = re.compile(r"(.*)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\]", re.DOTALL)


class Example(TypedDict):
    image: bytes | np.ndarray  # an encoded file, or uint8[H, W, C]
    name: str  # for messages: which file or record this is
    label: NotRequired[int]  # the number of its class
    labels: NotRequired[tuple[int, ...]]  # the numbers of all its classes
    targets: NotRequired[tuple[float, ...]]  # numbers, as many as the source has `target_names`
    captions: NotRequired[tuple[str, ...]]  # texts that describe the picture; absent where a source has none


class Source(Protocol):
    """Random access to examples. A source is picklable: every worker process gets a copy.

    It may say more of itself: `labels`, each example's class, by which a share of it has all classes alike;
    `target_names`; `fingerprint()`, see `vision_jax.data.fingerprints`.
    """

    num_classes: int
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_source(spec: str | tuple, *, tfds_dir: str = "") -> Source:
    """The source that `spec` names.

    Args:
        spec: "digits:train", "digits:test", "shapes:train", "shapes:test", "folder:PATH", "csv:FILE", "tfds:NAME:SPLIT",
            "wds:PATH/{000..099}.tar"; "package.module:Attribute" or "package.module:Attribute:REST" for one's own, which
            is called with REST; or ((spec, weight), ...) for a mix whose examples come in the proportions of the weights
            (its classes: see `Mix`). "folder:PATH[:80%]" and "folder:PATH[80%:]" are the first four fifths of each class
            and the rest, and so for the others; TFDS has slices of its own, "tfds:NAME:train[:10%]", which know no
            classes.
        tfds_dir: folder of prepared TFDS data sets; empty: TFDS's own default.

    Raises:
        ConfigError: the specification, or what it names, cannot be used; the message says what would be right.
    """
    if isinstance(spec, tuple | list):
        return _open_mix(tuple(spec), tfds_dir)
    kind, colon, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if not colon and kind not in SOURCES:
        raise ConfigError(f"no such data source: {spec!r}; expected {SOURCE}")
    if kind != "tfds" and (share := _SHARE.fullmatch(spec)) and (share[2] or share[3]):
        return Share(open_source(share[1]), int(share[2] or 0), int(share[3] or 100))
    if kind not in SOURCES:
        return _open_own(spec)
    opened = parts.find("data source", kind, SOURCES)
    return opened(rest, tfds_dir) if kind == "tfds" else opened(rest)


def _open_own(spec: str) -> Own:
    module, attribute, *rest = spec.split(":", 2)
    close = did_you_mean(module, SOURCES)
    if close.startswith("; did") and not parts.has_module(module):
        raise ConfigError(f"no such data source: {spec!r}{close}")
    source = parts.find("data source", f"{module}:{attribute}", SOURCES, "__getitem__")
    if rest or isinstance(source, type) or not hasattr(source, "__getitem__"):
        try:
            source = source(*rest)
        except TypeError as error:
            raise ConfigError(f"data source {spec!r}: {error}") from error
    return Own(source, spec)


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
