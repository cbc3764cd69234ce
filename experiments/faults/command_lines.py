"""Random command lines, each of which must end in a run or in one line: nothing else may come out, nor may one hang.

    JAX_PLATFORMS=cpu python experiments/faults/command_lines.py --seed=0 --parsed=4000 --prepared=600 --commands=400

`parsed` lines go through vision_jax.main's parsing, to JSON and back, and the durations; `prepared` ones besides through
all that is checked before a run's first step; `commands` are those of plan, predict, convert and visualize. Prints a table
of what came out, and exits with status 1 where something foreign did.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections.abc import Callable

from PIL import Image

from vision_jax import convert, plan, predict, visualize
from vision_jax.config import base_config, derive, from_dict, to_json, typed_leaves
from vision_jax.errors import ConfigError
from vision_jax.main import parse
from vision_jax.schema import Duration

RUN = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "work_folder"
MEMORY = 8 * 2**30  # bytes of address space: what asks for more fails
# fmt: off
CONFIGS = {
    "vit": ("model.width=32", "model.depth=1"),
    "swin": ("model.width=12", "model.depths=(1, 1)"),
    "mae": ("model.width=32", "model.depth=1", "model.decoder_depth=1"),
    "clip": ("model.text_width=32", "model.text_depth=1", "model.image={'depth': 1}"),
}
FIELDS = {
    "vit": "width depth num_heads mlp_dim patch_size pool drop_path_rate dropout_rate scan remat num_classes act posemb stem"
    " cls_token num_registers representation_size layer_scale_init norm_eps weight_init head_init head_bias_init dtype",
    "swin": "width depths num_heads window version pretrained_window mlp_ratio patch_size features_only scan remat act",
    "mae": "width decoder_width decoder_depth decoder_num_heads mask_ratio pool patch_size norm_pix_loss num_heads",
    "clip": "image image.width image.patch_size image.pool image_tower embed_dim text_width text_depth text_num_heads text_act"
    " text_pool vocab_size context_length logit_scale_init logit_bias_init image.depth text_mlp_dim",
}
NO_KEYS = (
    "", ".", "..", "model.", ".model", "model..x", "model", "data", "data.augment", "evals", "__class__", "__dict__",
    "_fields", "_schema", "keys", "items", "items.x", "update", "model.__class__", "model._fields", "model.name.x",
    "optimizer.lr_scale.0", "seed.x", "log.every.x", "model.parent", "model.foo", "mesh.across", "ключ", "a" * 5000,
)
NUMBERS = (
    "0", "1", "-1", "2", "3", "4", "7", "16", "17", "100", "1000000000", "-16", "1.5", "0.5", "-0.5", "1.0", "1e-400",
    "1e308", "1e400", "nan", "inf", "-inf", "1j", "2147483647", "2147483648", "-2147483649", "9223372036854775808",
    "18446744073709551616", "10**9", "9**9**9", "1_000", "9" * 400, "-" + "9" * 400, "9" * 5000, "0x10", "True", "None",
)
SHAPES = (
    "()", "(1,)", "(1,2)", "(1,2,3)", "(0,0)", "(16,16)", "(16,-16)", "(1e9,1e9)", "(nan,)", "((1,(1e400,)),)", "[]",
    "[1]", "[[]]", "{}", "{1:2}", "{'a':1}", "{'width': -1}", "{'depth': 0}", "{[]:1}", "{1,2}", "{{}}", "b'x'", "...",
    "('a','b')", "(('.*', 1),)", "(('.*', -1),)", "(('.*', 'x'),)", "(('(', 1),)", "('.*', 1)", "(1,2,3,4)", "(True,)",
    "(('.*', ('fsdp',)),)", "(('.*', ('fsdp', 'fsdp')),)", "(('(a+)+$', ('data',)),)", "(('(.*)*x', 2.0),)",
)
TEXTS = (
    "", " ", "''", "x", "true", "FALSE", "none", "%s%s", "{}", "\\", "*", "[", "(a+)+$", r"(\w+)+:", "(.*)*x", ".*",
    "(.*/)*(.*/)*x", "lambda: 1", "__import__('os').getcwd()", "'\\d'", "1if 1else 2", "(" * 300, "[" * 150 + "]" * 150,
    "-" * 3000 + "1", "[" * 5000, "\0x", "\ud800", "\udcff", "\x1b[31m", "a\nb", "🙂", "a" * 5000, "~nobody/x", "/", ".",
    "digits:train", "digits:", "digits:train[:0%]", "digits:train[:100%]", "digits:train[:999999999%]", "folder:", "wds:",
    "folder:/nowhere", "wds:{", "wds:{0..999999999}.tar", "wds:/dev/null", "tfds:", "tfds:x:y", "shapes:x", "shapes:train",
    "((('digits:train'),1),)", "(('digits:train',1),('digits:test',0))", "(('digits:train',nan),)", "(('digits:train',),)",
    "vit_s16", "swin_t", "clip_vit_b32", "mae_vit_b16", "resnet26", "modified_resnet", "bfloat16", "adamw", "lars", "lion",
    "sigmoid", "rand-m9-mstd0.5-inc1", "rand-m", "randaug(2,15)", "randaug(-1,99999)", "3-augment", "clip", "clip:/dev/null",
    "gap", "map", "token", "full", "dots", "sincos2d", "learn_2d", "gelu", "linear", "rsqrt", "step", "constant", "squash",
)
DURATIONS = (
    "1 steps", "0 steps", "-1 steps", "nan epochs", "inf steps", "1 epoch", "0.0001 epochs", "1e-300 epochs", "1  steps",
    "1e300 steps", "1e308 epochs", "1e18 steps", "2147483648 steps", "5 epochs extra", "1 parsecs", "1 steps ", "30 steps",
)
USUAL = {
    "checkpoint": ("last", "10", "best"), "image_size": ("16", "24"), "set": ("pool=gap", "num_classes=3"), "top": ("3",),
    "batch_size": ("2",), "format": ("hf", "timm"), "count": ("2",), "topology": ("cpu",), "trials": ("1",),
}
VALUES = (*NUMBERS, *SHAPES, *TEXTS, *DURATIONS)
# fmt: on


class Hang(BaseException): ...


TYPES = {key: entry.type for key, _, entry in typed_leaves(base_config())}
KEYS = tuple(TYPES)


def value_for(rng: random.Random, key: str) -> str:
    """Odd, and often of the kind that the key takes."""
    kinds = {int: NUMBERS, float: NUMBERS, tuple: SHAPES, Duration: DURATIONS, bool: ("True", "False")}
    kind = TYPES.get(key)
    if rng.random() < 0.3 or key.startswith("model."):
        return rng.choice(VALUES)
    return rng.choice(kinds.get((typing.get_args(kind) or (kind,))[0], TEXTS))


def training_line(rng: random.Random) -> list[str]:
    """A command line of vision_jax.main with one to three odd settings."""
    name = rng.choice(list(CONFIGS))
    line = [f"--config=configs/{name}_digits.py", "--workdir=nowhere", "--config.log.compile_cache="]
    line += [f"--config.{setting}" for setting in CONFIGS[name]]
    fields = [f"model.{field}" for field in FIELDS[name].split()]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        key = rng.choice(rng.choices([KEYS, fields, NO_KEYS], [5, 4, 1])[0])
        value = value_for(rng, key)
        line += [f"--config.{key}={value}"] if rng.random() < 0.9 else [f"--config.{key}", value]
    if rng.random() < 0.1:
        option = rng.choice(
            ["workdir", "mode", "checkpoint", "coordinator", "process_id", "num_processes", "config", "x"]
        )
        line.append(f"--{option}={rng.choice(VALUES)}")
    if rng.random() < 0.05:
        rng.shuffle(line)
        line = line[: rng.randrange(len(line))]
    return line


def command_line(rng: random.Random, folder: pathlib.Path) -> tuple[Callable, list[str]]:
    """The `main` of another command, and arguments for it of which most are odd."""

    def odd(*usual: str) -> str:
        return rng.choice(usual) if usual and rng.random() < 0.7 else rng.choice(VALUES)

    def some(*options: str) -> list[str]:
        return [f"--{option}={odd(*USUAL.get(option, ()))}" for option in rng.sample(options, rng.randrange(3))]

    match rng.choice(["plan", "predict", "convert", "visualize"]):
        case "plan":
            rest = some("topology", "trials", "examples", "classes", "config.batch_size", "config.duration")
            return plan.main, ["--config=configs/vit_digits.py:" + rng.choice(["", "x"]), "--topology=v9:1x1", *rest]
        case "predict":
            rest = some(
                "image_size", "checkpoint", "set", "file", "top", "batch_size", "labels", "templates", "tokenizer"
            )
            return predict.main, [
                odd(str(folder / "a.png"), str(folder)),
                f"--model={odd(str(folder / 'run'), str(folder / 'run'), str(folder / 'a.png'))}",
                *rest,
            ]
        case "convert":
            rest = some("format", "image_size", "checkpoint", "set", "file")
            return convert.main, [
                str(folder / "a.npz"),
                str(folder / "out"),
                *rest,
                *([] if rng.random() < 0.5 else [odd()]),
            ]
        case _:
            rest = some("checkpoint", "images", "count", "seed", "out")
            return visualize.main, [f"--workdir={odd(str(folder), str(folder / 'run'))}", *rest]


def check_parsed(line: list[str]):
    """The config of a line that parses, which JSON must give back."""
    _, config, _ = parse(line)
    assert from_dict(json.loads(to_json(config))) == config, "JSON gives back another config"
    derive(config, 1437)
    return config


def check_prepared(line: list[str]) -> None:
    from vision_jax.training.setup import prepare

    prepare(check_parsed(line))


def check_command(main: Callable, arguments: list[str]) -> None:
    """Raises ConfigError with the line that the command printed, AssertionError where it printed something else."""
    error = io.StringIO()
    arguments = [*map(str, arguments)]
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        sys.argv = ["command", *arguments]
        try:
            main()
        except SystemExit as exit:
            lines = error.getvalue().strip().split("\n")
            assert exit.code in (0, None) or lines[-1].startswith("error: "), f"status {exit.code}: {lines[-1]!r}"
            if exit.code:
                raise ConfigError(lines[-1]) from None


def outcome(check: Callable, *arguments, seconds: int = 60) -> str:
    """ "ran", "one line", or what else came of it."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(seconds)
    try:
        check(*arguments)
    except ConfigError as error:
        return "one line" if str(error).strip() else "a line without words"
    except Hang:
        return f"hangs in {check.__name__}"
    except BaseException as error:  # what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        frame = ([f for f in frames if "vision_jax/" in f.filename] or frames)[-1]
        place = f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
        return f"{check.__name__}: {type(error).__name__} at {place}: {' '.join(str(error).split())[:100]}"
    finally:
        signal.alarm(0)
    return "ran"


def _hang(*_) -> None:
    raise Hang


def cases(seed: int, parsed: int, prepared: int, commands: int, folder: pathlib.Path):
    """(kind, check, its arguments) of every line."""
    rng = random.Random(seed)
    for _ in range(parsed):
        yield "parsed", check_parsed, (training_line(rng),)
    for _ in range(prepared):
        yield "prepared", check_prepared, (training_line(rng),)
    for _ in range(commands):
        yield "commands", check_command, command_line(rng, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    for kind, count in (("parsed", 4000), ("prepared", 600), ("commands", 400)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts, examples, slowest = collections.Counter(), {}, collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (20, 20)).save(f"{folder}/a.png")
        shutil.copytree(RUN, f"{folder}/run")
        for kind, check, arguments in cases(args.seed, args.parsed, args.prepared, args.commands, pathlib.Path(folder)):
            start = time.monotonic()
            came = outcome(check, *arguments)
            slowest[kind] = max(slowest[kind], time.monotonic() - start)
            counts[kind, came] += 1
            shortest = examples.get(came)
            line = ascii([str(word)[:80] for word in arguments[-1]])
            examples[came] = line if shortest is None or len(line) < len(shortest) else shortest
    print("| lines | what came | times |\n|---|---|---|")
    for (kind, came), count in sorted(counts.items()):
        print(f"| {kind} | {came} | {count} |")
    print("\nslowest:", ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in slowest.items()))
    foreign = {came for _, came in counts} - {"ran", "one line"}
    for came in foreign:
        print(f"{came}\n    {examples[came]}")
    sys.exit(1 if foreign else 0)


if __name__ == "__main__":
    main()
