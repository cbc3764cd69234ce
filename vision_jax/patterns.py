"""Regular expressions that a user writes over the paths of parameters, each of which must match a whole path."""

import difflib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Collection

from vision_jax.errors import ConfigError
from vision_jax.values import shown

SECONDS = 2  # of computing that matching one pattern with all paths may take

# Repeats of groups, or several repeats: only with these may the time grow beyond all bounds with a path's length.
_SUSPECT = re.compile(r"\)[*+?{]|([*+}?].*){4}", re.DOTALL)

_TRIAL = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
pattern, paths = json.load(sys.stdin)
for path in paths:
    re.fullmatch(pattern, path)
"""


def path_pattern(what: str, pattern: str, paths: Collection[str]) -> re.Pattern:
    """The compiled pattern, whose `fullmatch` is meant (as in big_vision): `head/.*`, not `head`.

    Raises ConfigError that begins with `what` where it is no regular expression, where it matches none of the parameters'
    `paths`, and for one such as `(a+)+b` whose matching would not end: what may be such is tried in a process of its own.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of notations that may come to mean something else
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
    """Whether matching with the paths takes no more than `SECONDS`."""
    command = [sys.executable, "-I", "-S", "-c", _TRIAL.format(seconds=SECONDS)]
    trial = subprocess.run(command, input=json.dumps([pattern, paths]).encode(), capture_output=True, check=False)
    return trial.returncode == 0
