"""Who started a run, and with what: kept in config.json, an entry for every process that trained, and in summary.json."""

import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

PACKAGES = ("vision_jax", "jax", "flax", "numpy")
KEPT = 200  # entries kept in config.json, the first and the newest, for a run that is stopped again and again


def provenance(devices: Sequence[jax.Device], config: str = "") -> dict[str, Any]:
    """Date, command line, versions, devices and commits of this process, as JSON.

    config: the name or file of the config, with its argument; empty if the caller passed an object.
    """
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "config": config,
        "command": shlex.join(sys.orig_argv)[:4000],
        "commits": commits(config),
        "versions": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
    }


def extended(starts: Sequence[dict], new: dict) -> list[dict]:
    """The entries of config.json with a new one added."""
    return [*starts[:1], *starts[1:][2 - KEPT :], new]


def versions() -> dict[str, str]:
    """The versions of Python and of `PACKAGES`, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path
            found[name] = "not installed"
    return found


def commits(config: str = "") -> dict[str, str]:
    """The commits of this package and, if in another repository, of the config: "HASH" or "HASH-dirty"."""
    package, file = pathlib.Path(__file__).parents[2], pathlib.Path(config.partition(":")[0])
    found = {"vision_jax": _commit(package)} if (package / ".git").exists() else {}
    if config and file.is_file() and (commit := _commit(file.parent)) != found.get("vision_jax"):
        found["config"] = commit
    return {name: commit for name, commit in found.items() if commit}


def _commit(folder: pathlib.Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        settings = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # so that git writes nothing
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=settings)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
