"""Sources: random access to labelled images, and the specifications that name them."""

import math
import os
import re
from typing import NotRequired, Protocol, TypedDict

import numpy as np

from vision_jax import parts
from vision_jax.data.sources.folder import check_folder
from vision_jax.data.sources.mix import Mix
from vision_jax.data.sources.own import Own
from vision_jax.data.sources.share import Share
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import nearest_path, printable
from vision_jax.schema import SOURCE
from vision_jax.values import shown

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
    name: str  # for messages: the file or record
    label: NotRequired[int]  # the number of its class
    labels: NotRequired[tuple[int, ...]]  # the numbers of all its classes
    targets: NotRequired[tuple[float, ...]]  # numbers, one per name in the source's `target_names`
    captions: NotRequired[tuple[str, ...]]  # texts that describe the picture; absent if a source has none


class Source(Protocol):
    """Random access to examples. A source is picklable: every worker process gets a copy.

    It may also have `labels`, each example's class, so that a share of the source has the same share of every class;
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
            "wds:PATH/{000..099}.tar"; "package.module:Attribute" or "package.module:Attribute:REST" for your own, which
            is called with REST; or ((spec, weight), ...) for a mix drawn in proportion to the weights (its classes: see
            `Mix`). "folder:PATH[:80%]" and "folder:PATH[80%:]" are the first four fifths of each class and the rest, and
            likewise for the others; TFDS has its own slices, "tfds:NAME:train[:10%]", which ignore classes.
        tfds_dir: folder of prepared TFDS data sets; empty: TFDS's default.

    Raises:
        ConfigError: the specification, or what it names, cannot be used; the message says how to fix it.
    """
    check_spec(spec)
    if isinstance(spec, tuple | list):
        return _open_mix(tuple(spec), tfds_dir)
    kind, _, rest = spec.partition(":")
    if kind != "tfds" and (share := _SHARE.fullmatch(spec)) and (share[2] or share[3]):
        return Share(open_source(share[1]), int(share[2] or 0), int(share[3] or 100))
    if kind not in SOURCES:
        return _open_own(spec)
    opened = parts.find("data source", kind, SOURCES)
    return opened(rest, tfds_dir) if kind == "tfds" else opened(rest)


def check_spec(spec: str | tuple) -> None:
    """Raises ConfigError for errors in a specification that show before anything is opened."""
    if isinstance(spec, tuple | list):
        for pair in spec:
            if isinstance(pair, tuple | list) and pair and isinstance(pair[0], str):
                check_spec(pair[0])
        return
    kind, colon, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if not colon and kind not in SOURCES:
        raise ConfigError(f"no such data source: {shown(spec)}{_kind_of_path(spec) or f'; expected {SOURCE}'}")
    share = _SHARE.fullmatch(rest)
    path = os.path.expanduser(share[1] if share and (share[2] or share[3]) else rest)
    if kind == "folder":
        check_folder(path)
    elif kind == "csv" and not os.path.exists(path):
        raise ConfigError(f"data source 'csv:{printable(path)}': No such file or directory{nearest_path(path)}")
    elif kind not in SOURCES:
        close = did_you_mean(kind, SOURCES)
        if close.startswith("; did") and not parts.has_module(kind):
            raise ConfigError(f"no such data source: {spec!r}{close}")


def _kind_of_path(spec) -> str:
    """The end of a message about a path whose kind is not given."""
    if not isinstance(spec, str) or not (os.path.exists(os.path.expanduser(spec)) or "/" in spec):
        return ""
    is_table, is_shard = spec.endswith(".csv"), spec.endswith(".tar")
    return f"; did you mean '{'csv' if is_table else 'wds' if is_shard else 'folder'}:{printable(spec)}'?"


def _open_own(spec: str) -> Own:
    module, attribute, *rest = spec.split(":", 2)
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
