"""Mutated files of weights, and mutated JSON beside them: each is read, or ends in one line.

    python experiments/faults/fuzz_weights.py                         # 10,000 mutations a reader
    python experiments/faults/fuzz_weights.py --cases=300 --only=npz

Files are small and valid before they are mutated (`mutations.py`), made byte by byte (`tests/weights/hand_made.py`) or by
`vj.save_pretrained`. Every case has 10 seconds, and the process 2 GiB above what it starts with. What is raised besides
ConfigError, takes longer, or says more than a line, is printed with its number, by which `--case` repeats it alone.
"""

import argparse
import collections
import json
import logging
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models.inference import variable_shapes
from vision_jax.weights.preprocessing import preprocessing_of
from vision_jax.weights.readers import open_tensors
from vision_jax.weights.sources import open_weights

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "weights")]
import hand_made  # noqa: E402
import mutations  # noqa: E402

SECONDS, MEMORY = 10, 2 * 2**30
_EVERY = 100  # cases of JSON, one of which is loaded whole: that takes a second
_RAN = "ok"
FOLDERS = ("vit", "mae", "swin", "swinv2", "clip", "timm vit", "timm swin", "open_clip")


class Reader(NamedTuple):
    """The file `name` in a folder of its own is mutated, and what `read` is given is the folder's `source`."""

    folder: pathlib.Path
    name: str
    mutate: Callable[[random.Random, bytes], bytes]
    read: Callable[[pathlib.Path, int], None]
    source: str = "."


def read_all(path: pathlib.Path, case: int) -> None:
    assert {name: np.asarray(tensor.read()).shape for name, tensor in open_tensors(path).items()}


def describe(path: pathlib.Path, case: int) -> None:
    preprocessing_of(open_weights(path))
    if case % _EVERY == 0:
        vj.load_pretrained(path)


def describe_run(path: pathlib.Path, case: int) -> None:
    source = open_weights(path)
    assert source.class_names is not None and source.create_model() and preprocessing_of(source)


def mutate_json(random: random.Random, data: bytes) -> bytes:
    return (
        mutations.json_text(random, json.loads(data)) if random.random() < 0.95 else mutations.scattered(random, data)
    )


def make_folders(folder: pathlib.Path) -> None:
    """Valid ones: of a small model of every family and format that has a config.json, and of a run."""
    make_models(folder)
    make_run(folder / "run")


def readers(folder: pathlib.Path) -> dict[str, Reader]:
    """Every reader by its name, with its valid file; `folder` has what `make_folders` makes."""
    found = {}
    for name, (data, mutate) in tensor_files().items():
        place = folder / name
        place.mkdir()
        (place / "weights").write_bytes(data)
        found[name] = Reader(place, "weights", mutate, read_all, "weights")
    for name in FOLDERS:
        config = "open_clip_config.json" if name == "open_clip" else "config.json"
        found[f"config.json of {name}"] = Reader(folder / name, config, mutate_json, describe)
    vit = folder / "vit"
    found["preprocessor_config.json"] = Reader(
        _copy(vit, "processor"), "preprocessor_config.json", mutate_json, describe
    )
    sharded = _copy(vit, "sharded")
    (sharded / "model.safetensors").rename(sharded / "part-1.safetensors")
    names = dict.fromkeys(open_tensors(sharded / "part-1.safetensors"), "part-1.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found["index.json"] = Reader(sharded, "model.safetensors.index.json", mutate_json, describe)
    found["config.json of a run"] = Reader(folder / "run", "config.json", mutate_json, describe_run)
    return found


def tensor_files() -> dict[str, tuple[bytes, Callable]]:
    """Every format: (a file, its mutator)."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor, parameter = hand_made.tensor, hand_made.parameter
    settings = hand_made.New(
        hand_made.Name("argparse", "Namespace"), {"model": "vit", "eps": 1e-6, "sizes": [2, (3, None)]}
    )
    model = {
        "a": tensor("FloatStorage", "0", 12, 0, (3, 4), (4, 1)),
        "b": parameter(tensor("FloatStorage", "0", 12, 1, (2, 2), (1, 4))),
        "c": tensor("HalfStorage", "1", 4, 0, (4,), (1,)),
    }
    root = {"model": model, "epoch": 3, "args": settings, "optimizer": {"state": {0: {"step": model["c"]}}}}
    pickle, storages = hand_made.pickled(root), {"0": matrix.tobytes(), "1": bytes(8)}
    script = hand_made.pickled(hand_made.New(hand_made.Name("__torch__.m", "M"), {**model, "training": True}))
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [48, 50]},
        "c": {"dtype": "I64", "shape": [0, 2], "data_offsets": [50, 50]},
    }
    more = {"constants.pkl": hand_made.pickled(()), "code/__torch__/m.py": "class M(Module): pass"}
    return {
        "npz": (hand_made.npz({"params/a": matrix, "b": np.asfortranarray(matrix), "c": np.int64(3)}), mutations.npz),
        "safetensors": (hand_made.safetensors(header, bytes(50)), mutations.safetensors),
        "torch zip": (hand_made.archive(pickle, storages, byteorder="little"), mutations.torch_zip),
        "torch legacy": (
            hand_made.legacy(root, {"0": (12, storages["0"]), "1": (4, bytes(8))}),
            mutations.torch_legacy,
        ),
        "TorchScript": (hand_made.archive(script, storages, **more), mutations.torch_zip),
    }


def make_models(folder: pathlib.Path) -> None:
    swin = {"width": 8, "depths": (2, 1), "num_heads": (1, 2), "patch_size": 2, "window": 4}
    text = {
        "embed_dim": 8,
        "text_width": 64,
        "text_depth": 1,
        "text_num_heads": 1,
        "vocab_size": 30,
        "context_length": 8,
    }
    image = {
        "patch_size": 4,
        "width": 64,
        "depth": 1,
        "num_heads": 1,
        "mlp_dim": 8,
        "pre_norm": True,
        "patch_bias": False,
    }
    clip = {"image_tower": "vit", "image": {**image, "act": "quick_gelu", "norm_eps": 1e-5}, **text}
    sizes = {"patch_size": 4, "width": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_num_heads": 1, "decoder_mlp_dim": 8}
    models = {
        "vit": ("hf", vj.create_model("vit", num_classes=3, **sizes, act="gelu")),
        "mae": ("hf", vj.create_model("mae", **sizes, **decoder)),
        "swin": ("hf", vj.create_model("swin", num_classes=3, **swin)),
        "swinv2": ("hf", vj.create_model("swin", num_classes=3, version=2, **swin)),
        "clip": ("hf", vj.create_model("clip", **clip)),
        "timm vit": ("timm", vj.create_model("vit", num_classes=3, **sizes, act="gelu")),
        "timm swin": ("timm", vj.create_model("swin", num_classes=3, window_rule="axis", **swin)),
        "open_clip": ("open_clip", vj.create_model("clip", **clip)),
    }
    how = vj.Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "crop", 1.0)
    for name, (format, model) in models.items():
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variable_shapes(model, (16, 16)))
        names = ("ant", "bee", "cat") if getattr(model, "num_classes", 0) else ()
        vj.save_pretrained(folder / name, model, zeros, format, preprocessing=how, class_names=names)


def _copy(folder: pathlib.Path, name: str) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(folder, folder.parent / name))


def make_run(folder: pathlib.Path) -> None:
    """A work folder as far as it is read before the values."""
    from vision_jax.config import base_config, to_dict

    config = base_config()
    config.model = {
        "name": "vit",
        "patch_size": 4,
        "width": 8,
        "depth": 1,
        "num_heads": 1,
        "mlp_dim": 8,
        "num_classes": 3,
    }
    (folder / "checkpoints" / "7" / "state").mkdir(parents=True)
    derived = {"class_names": ["ant", "bee", "cat"], "train_examples": 9, "steps": {"duration": 3}}
    (folder / "config.json").write_text(json.dumps({**to_dict(config), "derived": derived}))


def outcomes(reader: Reader, name: str, cases: range) -> Iterator[tuple[int, str]]:
    """(number, "ok", the class of what was raised, or what was wrong with it) of every mutation."""
    valid = (reader.folder / reader.name).read_bytes()
    for case in cases:
        mutated = reader.mutate(random.Random(f"{name} {case}"), valid)
        (reader.folder / reader.name).write_bytes(mutated)
        yield case, outcome(reader, case)
    (reader.folder / reader.name).write_bytes(valid)


def outcome(reader: Reader, case: int) -> str:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(reader.folder / reader.source, case)
    except ConfigError as error:
        return "ConfigError" if str(error).isprintable() else f"a message that is no line: {str(error)!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {pathlib.Path(place.filename).name}:{place.lineno}: {error!s:.200}"
    except TooLong:
        return f"longer than {SECONDS} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return _RAN


class TooLong(BaseException):
    """Not an Exception, which the readers turn into a line."""


def stop(*_) -> None:
    raise TooLong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="mutations a reader")
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--only", default="", help="readers whose names this regular expression finds")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory() as temporary:
        make_folders(pathlib.Path(temporary))
        found = readers(pathlib.Path(temporary))
        used = int(re.search(r"VmSize:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        print(
            "| reader | mutations | read | one line | anything else | longest | seconds |\n| --- | --- | --- | --- | --- | --- | --- |"
        )
        failures = {}
        for name, reader in found.items():
            if re.search(args.only, name):
                counts, longest, start = collections.Counter(), 0.0, time.perf_counter()
                cases = range(args.cases) if args.case is None else range(args.case, args.case + 1)
                before = start
                for case, what in outcomes(reader, name, cases):
                    longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
                    counts[what] += 1
                    if what not in (_RAN, "ConfigError"):
                        failures.setdefault((name, what), case)
                others = counts.total() - counts[_RAN] - counts["ConfigError"]
                print(
                    f"| {name} | {counts.total():,} | {counts[_RAN]:,} | {counts['ConfigError']:,} | {others:,} ",
                    end="",
                )
                print(f"| {longest:.2f} s | {time.perf_counter() - start:.0f} s |", flush=True)
    for (name, what), case in failures.items():
        print(f"{name} --case={case}: {what}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
