"""Fingerprints identify training data wherever it is stored: a run resumes only on the data that it started with."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

PARTS = 1000  # the most parts, such as classes or shards, that a fingerprint names one by one


def fingerprint(source) -> dict[str, Any]:
    """{"examples": how many, "digest": of the parts, "parts": {name: text}} for a source.

    If there are more than `PARTS` parts, only the digest covers them.
    """
    parts = {printable_name(name): text for name, text in parts_of(source).items()}
    found = {"examples": len(source), "digest": digest(f"{name}\0{text}" for name, text in parts.items())}
    return found | ({"parts": parts} if len(parts) <= PARTS else {})


def parts_of(source) -> dict[str, str]:
    """The result of a source's `fingerprint()` for its classes, shards or splits; without that, only class names."""
    own = getattr(source, "fingerprint", None)
    return dict(own()) if own else dict.fromkeys(map(str, getattr(source, "class_names", ())), "class")


def digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits that change with any line or their order."""
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()[:16]


def printable_name(name: str) -> str:
    """A name as JSON can hold it: file names need not be Unicode."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two fingerprints, one phrase each; [] if they are equal."""
    before, after = was.get("parts", {}), now.get("parts", {})
    found = [f"'{name}' is gone" for name in before if name not in after]
    found += [f"'{name}' is new" for name in after if name not in before]
    found += [
        f"'{name}' had {before[name]}, has {after[name]}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    if was.get("examples") != now["examples"]:
        found.append(f"{was.get('examples')} examples then, {now['examples']} now")
    if not found and was.get("digest") != now["digest"]:
        found.append("names or sizes of its parts, or their order")
    return found
