"""The crash matrix: everything that may happen to a run, done to one, and what came of it, as a table.

    python experiments/faults/run.py                             # all of it, about 30 minutes on two cores
    python experiments/faults/run.py --only=signals,locking      # scenarios by name
    python experiments/faults/run.py --only=kills --kills=8 --seed=1

Exit status 0 only where every row is as promised. As root, on Linux, nothing is skipped: full and read-only disks are
mounted under the scratch folder, and one command runs as another user.
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import damage  # noqa: E402
import data_changes  # noqa: E402
import kills  # noqa: E402
import leaks  # noqa: E402
import locking  # noqa: E402
import lost_parts  # noqa: E402
import signals  # noqa: E402
import storage  # noqa: E402
from drive import Row, Scratch  # noqa: E402

SCENARIOS = {
    module.__name__: module for module in (kills, damage, leaks, signals, lost_parts, locking, storage, data_changes)
}
PROGRAMS = ("hostile_pictures", "hostile_weights", "command_lines")  # beside this one; each prints a table of its own
COLUMNS = ("what was done", "what was said, or came of it", "status", "seconds", "MB", "verdict")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = [*SCENARIOS, *PROGRAMS]
    parser.add_argument("--only", default=",".join(known), help=f"comma-separated: {', '.join(known)}")
    parser.add_argument("--kills", type=int, default=60, help="of one training (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--quick", action="store_true", help="one case of each kind")
    parser.add_argument("--out", type=pathlib.Path, help="default: RESULTS.md beside this file, where all of it runs")
    parser.add_argument(
        "--scratch", type=pathlib.Path, help="a folder to work in and to leave; default: a temporary one"
    )
    args = parser.parse_args(argv)
    names = args.only.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    began, root = time.monotonic(), args.scratch or pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    scratch = Scratch(root, seed=args.seed, kills=args.kills, quick=args.quick)
    rows = [row for name in names if name in SCENARIOS for row in told(of(name, scratch))]
    programs = [program(name, args.quick) for name in names if name in PROGRAMS]
    report = "\n\n".join([heading(time.monotonic() - began), table(rows), *(text for text, _ in programs)]) + "\n"
    out = args.out or (None if args.quick or names != known else HERE / "RESULTS.md")
    out.write_text(report) if out else print(report)
    if not args.scratch:
        shutil.rmtree(root, ignore_errors=True)
    return int(any(row.wrong for row in rows) or not all(fine for _, fine in programs))


def of(name: str, scratch: Scratch) -> Iterator[Row]:
    """The rows of a scenario; what stops it is a row of its own."""
    try:
        yield from SCENARIOS[name].rows(scratch)
    except Exception as problem:
        traceback.print_exception(problem)
        yield Row(name, "the scenario itself", wrong=(f"{type(problem).__name__}: {problem}",))
    finally:
        scratch.close()


def told(rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows, each printed as it comes."""
    for row in rows:
        print(
            f"{row.verdict:8}{row.kind}: {row.done}{''.join(f'{chr(10)}          {w}' for w in row.wrong)}", flush=True
        )
        yield row


def program(name: str, quick: bool) -> tuple[str, bool]:
    """What a program beside this one prints, and whether all in it is as promised."""
    path = HERE / f"{name}.py"
    if not path.exists():
        return f"## {name}\n\nskipped: there is no {path.name}", True
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, path, *["--quick"] * quick], capture_output=True, text=True, env=environment)
    print(f"{'FAILED' if done.returncode else 'OK':8}{name}", flush=True)
    failure = f"\n\nFAILED with exit status {done.returncode}: {done.stderr.strip()[-500:]}" if done.returncode else ""
    return f"## {name}\n\n{done.stdout.strip()}{failure}", done.returncode == 0


def heading(seconds: float) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint", "grain"))
    return (
        "# What came of it\n\nWritten by `python experiments/faults/run.py`: do not edit. "
        f"{platform.system()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}; "
        f"{seconds / 60:.0f} minutes. MB: the largest sum of resident memory of the command and its workers."
    )


def table(rows: list[Row]) -> str:
    """Markdown: a section of each kind of row, counts first."""
    verdicts = [row.verdict for row in rows]
    lines = [", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))]
    for kind in dict.fromkeys(row.kind for row in rows):
        lines += ["", f"## {kind}", "", line(COLUMNS), line(["---"] * len(COLUMNS))]
        lines += [line(cells(row)) for row in rows if row.kind == kind]
    return "\n".join(lines)


def cells(row: Row) -> list[str]:
    verdict = ": ".join([row.verdict, *filter(None, ["; ".join(row.wrong), row.skipped])])
    return [
        row.done,
        shortened(row.said),
        row.status,
        f"{row.seconds:.1f}" if row.seconds else "",
        str(row.megabytes or ""),
        verdict,
    ]


def shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def line(parts: Iterable[str]) -> str:
    return "| " + " | ".join(part.replace("|", "\\|").replace("\n", " ") for part in parts) + " |"


if __name__ == "__main__":
    sys.exit(main())
