"""Files of weights, and JSON beside them, made to take hours, gigabytes, or a program by surprise: all of them by name."""

import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "weights")]  # where files are made by hand
import hostile_arrays  # noqa: E402, F401
import hostile_models  # noqa: E402, F401
import hostile_torch  # noqa: E402, F401
import hostile_zip  # noqa: E402, F401
from hostile_places import KINDS  # noqa: E402
from hostile_registry import FILES, MODELS  # noqa: E402

__all__ = ["FILES", "KINDS", "MODELS", "copied"]


def copied(cases: pathlib.Path, folder: pathlib.Path) -> None:
    """The valid folders that the cases change."""
    shutil.copytree(cases, folder, dirs_exist_ok=True)
