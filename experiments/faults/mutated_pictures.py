"""Mutated pictures, shards, vocabularies, selections and lists: nothing but OK or one line may come of any.

    python experiments/faults/mutated_pictures.py --count=10000               # of each kind
    python experiments/faults/mutated_pictures.py --count=500 PNG selection   # kinds by name

A file that ends in anything else, takes more than 10 s, or runs into the limit on memory, 1 GiB above what the process
has at the start, is kept in --keep. The files are made in picture_mutations.py, the same for the same --seed.
"""

import argparse
import collections
import contextlib
import io
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time

import picture_mutations
from hostile_pictures import SECONDS, read

MEMORY = 2**30  # bytes of address space: the 512 MiB that are promised, and what an allocator asks for and leaves alone


def outcome(kind: str, path: pathlib.Path) -> str:
    """ "OK", the kind of error that ends in one line, or "FOREIGN: ...", with a limit on time. What is told must be fit to
    be printed."""
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(told := io.StringIO()):
            said = read(kind, str(path))
        if not all(line.isprintable() for line in told.getvalue().split("\n")):
            return f"FOREIGN: prints {told.getvalue()[:100]!r}"
        return "FOREIGN: out of memory" if "MemoryError" in said else said.partition(":")[0]
    except BaseException as error:
        return f"FOREIGN: {type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)


def _hangs(*_):
    raise TimeoutError("it hangs")


def fuzz(name: str, count: int, seed: int, folder: pathlib.Path) -> tuple[collections.Counter, list[bytes]]:
    """How often each outcome came, and the files that ended in a foreign one."""
    kind, file, make = picture_mutations.KINDS[name]
    rng, found, kept = random.Random(f"{seed} {name}"), collections.Counter(), []
    path = folder / file
    if kind in ("selection", "index"):
        (folder / "a.tar").write_bytes(picture_mutations.SHARD)
        os.utime(folder / "a.tar", ns=(0, 0))  # as indexes say
    for _ in range(count):
        content = make(rng)
        path.write_bytes(content)
        said = outcome(kind, path)
        found[said] += 1
        if said.startswith("FOREIGN"):
            kept.append(content)
        if kind == "shard":
            path.with_name("a.tar.index").unlink(missing_ok=True)
    return found, kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "kinds", nargs="*", default=list(picture_mutations.KINDS), help=", ".join(picture_mutations.KINDS)
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="", help="folder for the files that end in anything else")
    args = parser.parse_args()
    from vision_jax.data.tokenizers import open_tokenizer

    open_tokenizer("clip", 77)(["a cat"])  # imports count for no file
    signal.signal(signal.SIGALRM, _hangs)
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    bad = 0
    print("| mutated | files | OK | one line | anything else | seconds |\n|---|---:|---:|---:|---:|---:|")
    for name in args.kinds:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOME"] = folder
            found, kept = fuzz(name, args.count, args.seed, pathlib.Path(folder))
        lines = sum(found[error] for error in ("BrokenImage", "ConfigError", "RunError"))
        seconds = time.monotonic() - start
        print(f"| {name} | {args.count:,} | {found['OK']:,} | {lines:,} | {len(kept)} | {seconds:.0f} |", flush=True)
        for said in sorted(key for key in found if key.startswith("FOREIGN")):
            print(f"{name}: {found[said]} x {said}", file=sys.stderr)
        for i, content in enumerate(kept[:20] if args.keep else []):
            pathlib.Path(args.keep, f"{name}-{i}").write_bytes(content)
        bad += len(kept)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
