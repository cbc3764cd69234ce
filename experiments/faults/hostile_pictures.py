"""Hostile pictures, shards, vocabularies, selections and lists: what is said of each, in what time and memory.

    python experiments/faults/hostile_pictures.py                  # every case, as a table in Markdown
    python experiments/faults/hostile_pictures.py thin sparse      # those with a word of these in their names

Each file is made in a temporary folder and read by the function that the commands read it with, in a process of its own.
Its peak of resident memory is told above that of the same process reading an ordinary file of the kind. Every case must
end in OK or in one line, within 10 s and within 512 MiB plus twice what the file takes on disk. The files are made in
hostile_images.py, picture_places.py, hostile_shards.py and hostile_lists.py.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import hostile_images  # noqa: F401
import hostile_lists  # noqa: F401
import hostile_shards  # noqa: F401
import picture_places  # noqa: F401
from picture_cases import CASES

from vision_jax.errors import ConfigError, RunError

SECONDS, MEMORY = 10, 512  # MiB


def read_picture(path):
    """As predict, training and an evaluation read it; the digits' 8 pixels would hide what resizing takes."""
    import numpy as np

    from vision_jax.config import base_config
    from vision_jax.data.augment import train_transform
    from vision_jax.data.images import EvalTransform, decode
    from vision_jax.data.sources.pictures import Pictures

    image = decode(Pictures([path])[0]["image"])
    for transform in (EvalTransform((224, 224)), EvalTransform((224, 224), squash=True)):
        transform(image)
    train_transform(base_config().data)(image, np.random.default_rng(0))


def read_source(spec):
    from vision_jax.data import open_source
    from vision_jax.data.decoding import BrokenImage, decode

    source, broken = open_source(spec), []
    for i in range(min(len(source), 100)):
        try:
            decode(source[i]["image"])
        except BrokenImage as error:
            broken.append(error)
    if len(broken) == len(source):
        raise broken[0]


def read_index(path):
    """Of the shard beside it."""
    from vision_jax.data.shards.index import index_of

    index_of.cache_clear()
    read_source(f"wds:{path.removesuffix('.index')}")


def read_vocabulary(path):
    from vision_jax.data.tokenizers import open_tokenizer

    open_tokenizer(f"clip:{path}", 77)(["a cat"])


def read_text(path):
    from vision_jax.data.tokenizers import open_tokenizer

    text = pathlib.Path(path).read_text()
    for spec in ("bytes", "clip"):
        open_tokenizer(spec, 77)([text])


def read_classes(path):
    from vision_jax.evaluation.prompts import TEMPLATES, class_prompts, listed_classes

    class_prompts(TEMPLATES["photos"], listed_classes(path, "--labels"))


def read_templates(path):
    from vision_jax.evaluation.prompts import open_templates

    open_templates(path, "--templates")


def read_queries(path):
    from vision_jax.data.curate import read_queries

    read_queries(path)


def curate(path):
    from vision_jax.data.curate import curate

    folder = pathlib.Path(path).parent
    curate(f"{folder}/a.tar", path, f"{folder}/out.npz", 10, 0, "every", 0)


def read_config(path):
    from vision_jax.command_line import load_config

    load_config(path)


READERS = {
    "picture": read_picture,
    "shard": lambda path: read_source(f"wds:{path}"),
    "folder": lambda path: read_source(f"folder:{path}"),
    "index": read_index,
    "selection": lambda path: read_source(f"wds:{path}"),
    "vocabulary": read_vocabulary,
    "text": read_text,
    "classes": read_classes,
    "templates": read_templates,
    "queries": read_queries,
    "curation": curate,
    "config": read_config,
}


def read(kind: str, path: str) -> str:
    """What is said. Foreign exceptions are raised."""
    from vision_jax.data.decoding import BrokenImage

    try:
        READERS[kind](path)
    except (ConfigError, RunError, BrokenImage) as error:
        line = str(error)
        assert "\n" not in line and "\x1b" not in line, line
        return f"{type(error).__name__}: {line.replace(str(pathlib.Path(path).parent), '')}"
    return "OK"


def child(kind: str, path: str) -> None:
    """In a process of its own: prints seconds, KiB by which the peak of memory rose, and what was said."""
    from vision_jax.data import curate, images  # noqa: F401  imports count for no case
    from vision_jax.evaluation import prompts  # noqa: F401

    if kind in ("text", "vocabulary"):
        from vision_jax.data.tokenizers import open_tokenizer

        open_tokenizer("clip", 77)(["a cat"])
    start, before = time.monotonic(), peak_memory()
    said = read(kind, path)
    print(f"{time.monotonic() - start:.2f}", peak_memory() - before, said, sep="\t")


def peak_memory() -> int:
    """KiB of this process until now. Those of two processes do not compare: how much of a library is mapped varies."""
    # getrusage's peak may be that of the process that started it.
    return int(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


def measure(kind: str, path: str) -> tuple[float, float, str]:
    """Seconds, MiB by which the peak of memory rose, and what was said or that it was no line."""
    command = [sys.executable, __file__, "--child", kind, path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * SECONDS)
    except subprocess.TimeoutExpired:
        return 10.0 * SECONDS, 0.0, "HANGS"
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return 0.0, 0.0, f"FOREIGN: {last[0]}"
    seconds, above, said = lines[-1].split("\t", 2)
    more = [line for line in done.stderr.splitlines() if not line.startswith(("wds:", "skipped"))]
    return float(seconds), int(above) / 1024, said if not more else f"PRINTS: {more[0]}"


def size_on_disk(path: pathlib.Path) -> float:
    paths = [path, *path.rglob("*")] if os.path.isdir(path) else [path]
    return sum(p.lstat().st_blocks * 512 for p in paths if os.path.lexists(p)) / 2**20


def main(words: list[str]) -> int:
    bad = 0
    print("| what was done | on disk, MiB | what was said | seconds | MiB that it took | |")
    print("|---|---:|---|---:|---:|---|")
    quick, words = "--quick" in words, [word for word in words if word != "--quick"]
    for name, (kind, make) in list(CASES.items())[:: 8 if quick else 1]:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOME"] = folder  # indexes are kept there where they cannot lie beside their shard
            path = pathlib.Path(make(pathlib.Path(folder)))
            disk = size_on_disk(path)
            seconds, above, said = measure(kind, str(path))
        holds = said.startswith(("OK", "ConfigError", "RunError", "BrokenImage"))
        holds = holds and seconds < SECONDS and above < MEMORY + 2 * disk
        bad += not holds
        shown = name.replace("|", "\\|")
        print(
            f"| {kind}: {shown} | {disk:.1f} | {said[:160]} | {seconds:.1f} | {above:.0f} | {'' if holds else 'NO'} |"
        )
        sys.stdout.flush()
    return bad


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(min(main(sys.argv[1:]), 1))
