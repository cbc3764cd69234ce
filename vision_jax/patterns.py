"""Regular expressions that a user writes over the paths of parameters."""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable

from vision_jax.errors import ConfigError
from vision_jax.values import shown

SECONDS = 2  # of computing that matching one pattern with all paths may take

# Repeats of groups, or several repeats: only with these may the time grow beyond all bounds with a path's length.
_SUSPECT = re.compile(r"\)[*+?{]|([*+}?].*){4}", re.DOTALL)

_TRIAL = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
pattern, names = json.load(sys.stdin)
for name in names:
    re.search(pattern, name)
    re.fullmatch(pattern, name)
"""


def compile_pattern(what: str, pattern: str, names: Iterable[str]) -> re.Pattern:
    """The compiled pattern, to be matched with `names`.

    Raises ConfigError that begins with `what` where it is no regular expression, or one such as `(a+)+b` whose matching
    would not end: a pattern that may be such is tried in a process of its own.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of notations that may come to mean something else
            compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{what}: {shown(pattern)} is no regular expression ({error})") from None
    if _SUSPECT.search(pattern) and not _ends(pattern, list(names)):
        raise ConfigError(f"{what}: matching {shown(pattern)} takes too long: it repeats what repeats itself")
    return compiled


def _ends(pattern: str, names: list[str]) -> bool:
    """Whether matching with the names takes no more than `SECONDS`."""
    command = [sys.executable, "-I", "-S", "-c", _TRIAL.format(seconds=SECONDS)]
    trial = subprocess.run(command, input=json.dumps([pattern, names]).encode(), capture_output=True, check=False)
    return trial.returncode == 0
