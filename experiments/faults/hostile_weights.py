"""Hostile files of weights (`hostile_cases.py`), each opened in a process of its own: what was said, and what it took.

    python experiments/faults/hostile_weights.py              # a table in Markdown; some minutes
    python experiments/faults/hostile_weights.py --only=npz

A case is good where it ends in one line of ConfigError, or in a model where the file holds one, within 10 seconds and
512 MiB of memory besides twice the file's size on disk. Memory is the peak of the process above that of one which opens a
valid file; seconds are those of opening alone, jax's start among them.
"""

import argparse
import logging
import multiprocessing
import pathlib
import re
import sys
import tempfile
import time

import jax
import numpy as np

import vision_jax as vj
from vision_jax.files import printable
from vision_jax.weights.readers import open_tensors

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import fuzz_weights  # noqa: E402
import hostile_cases  # noqa: E402

SECONDS, MEMORY = 10, 512 * 2**20
FORK = multiprocessing.get_context("fork")  # of a process that has imported all, and started no thread of jax


def measured(kind: str, path: pathlib.Path) -> tuple[str, float, int]:
    """(what was said, seconds, peak of memory in bytes) of a process that opens `path`."""
    receiver, sender = FORK.Pipe(False)
    process = FORK.Process(target=open_and_tell, args=(sender, kind, path))
    process.start()
    sender.close()
    process.join(6 * SECONDS)
    if process.is_alive():
        process.kill()
        return "nothing", float("inf"), 0
    return receiver.recv() if receiver.poll() else (f"died with {process.exitcode}", 0.0, 0)


def open_and_tell(sender, kind: str, path: pathlib.Path) -> None:
    logging.disable(logging.WARNING)
    start = time.perf_counter()
    try:
        if kind == "models":
            jax.block_until_ready(vj.load_pretrained(path)[1])
        else:
            [np.array(tensor.read()) for tensor in open_tensors(path).values()]
        said = "read"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
    sender.send((said, seconds, 1024 * peak))


def on_disk(path: pathlib.Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return sum(512 * file.stat().st_blocks for file in files)


def is_good(said: str, seconds: float, peak: int, size: int) -> bool:
    is_line = said == "read" or (said.startswith("ConfigError: ") and said.isprintable())
    return is_line and seconds <= SECONDS and peak <= MEMORY + 2 * size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names this regular expression finds")
    args = parser.parse_args()
    count = failures = 0
    print(
        "| what was done | what was said | outcome | seconds | peak memory above a valid file's |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as temporary:
        valid = pathlib.Path(temporary) / "valid"
        valid.mkdir()
        maker = FORK.Process(target=fuzz_weights.make_folders, args=(valid,))
        maker.start()
        maker.join()
        bases = {kind: measured(kind, valid / "timm vit")[2] for kind in ("files", "models")}
        for kind, cases in {"files": hostile_cases.FILES, "models": hostile_cases.MODELS}.items():
            for name, make in cases.items():
                if not re.search(args.only, name):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    if kind == "models":
                        hostile_cases.copied(valid, pathlib.Path(folder))
                    path = make(pathlib.Path(folder))
                    said, seconds, peak = measured(kind, path)
                    peak = max(peak - bases[kind], 0)
                    good = is_good(said, seconds, peak, on_disk(path))
                    said = said.replace(folder, "")
                count, failures = count + 1, failures + (not good)
                said = printable(said.replace("|", "\\|"), 300)
                outcome = "good" if good else "BAD"
                print(f"| {name} | {said} | {outcome} | {seconds:.2f} | {peak / 2**20:.0f} MiB |", flush=True)
    print(f"\n{count} cases, {failures} of them bad")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
