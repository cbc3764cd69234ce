"""Regular expressions given by a user for paths of parameters; each must match a whole path."""

import difflib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Collection

from vision_jax.errors import ConfigError
from vision_jax.values import shown

SECONDS = 2  # the computing time allowed for matching one pattern with all paths

# Repeated groups, or several repeats: only with these may the time grow without bounds with a path's length.
_SUSPECT = re.compile(r"\)[*+?{]|([*+}?].*){4}", re.DOTALL)

_TRIAL = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
pattern, paths = json.load(sys.stdin)
for path in paths:
    re.fullmatch(pattern, path)
"""


def path_pattern(what: str, pattern: str, paths: Collection[str]) -> re.Pattern:
    """The compiled pattern, to be used with `fullmatch` (as in big_vision): `head/.*`, not `head`.

    Raises ConfigError that begins with `what` if it is not a regular expression, if it matches none of the parameters'
    `paths`, and for one such as `(a+)+b` whose matching would not end: suspicious ones are tried in a separate process.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about notations whose meaning may change
            compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{what}: {shown(pattern)} is no regular expression ({error})") from None
    if _SUSPECT.search(pattern) and not _ends(pattern, list(paths)):
        raise ConfigError(f"{what}: matching {shown(pattern)} takes too long: it repeats what repeats itself")
    if not any(map(compiled.fullmatch, paths)):
        literal = re.sub(r"\\.|[^\w/]", "", pattern)
        close = difflib.get_close_matches(literal[:200], paths, 1, 0.0)
        nearest = f"; the nearest path is '{close[0]}'" if close else ""
        raise ConfigError(f"{what}: {shown(pattern)} matches no parameter's whole path{nearest}")
    return compiled


def _ends(pattern: str, paths: list[str]) -> bool:
    """Whether matching all paths takes at most `SECONDS`."""
    command = [sys.executable, "-I", "-S", "-c", _TRIAL.format(seconds=SECONDS)]
    trial = subprocess.run(command, input=json.dumps([pattern, paths]).encode(), capture_output=True, check=False)
    return trial.returncode == 0
