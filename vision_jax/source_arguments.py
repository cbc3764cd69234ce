"""The arguments that say which weights a command reads, and how."""

import argparse
import re
from typing import Any

from vision_jax.command_line import check_checkpoint, read_value
from vision_jax.errors import ConfigError
from vision_jax.values import plain, shown
from vision_jax.weights.hub import local_path
from vision_jax.weights.work_folder import is_work_folder, locate


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `vj.load_pretrained` other than the source; see `source_arguments`."""
    parser.add_argument("--image_size", help="pixels a side, or HEIGHTxWIDTH (default: the model's)")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the hub")
    parser.add_argument("--checkpoint", default="last", help="of a work folder: last, best or a step (default: last)")
    of_file = "what a bare file does not say of itself, such as text_act=quick_gelu or image_size=(224,288)"
    for option, meaning in {"--set": "a field of the model, such as pool=gap", "--file": of_file}.items():
        parser.add_argument(option, action="append", default=[], metavar="FIELD=VALUE", help=meaning)


def source_arguments(args: argparse.Namespace, source: str) -> dict[str, Any]:
    """Keyword arguments for `vj.load_pretrained`. Raises ConfigError naming one that cannot be read, or if `source` or its
    checkpoint does not exist: what a user may have got wrong is checked before jax is imported.
    """
    size = None
    if args.image_size:
        sides = args.image_size.split("x")
        if len(sides) > 2 or not all(re.fullmatch("[1-9][0-9]{0,5}", side) for side in sides):
            raise ConfigError(f"--image_size takes pixels a side or HEIGHTxWIDTH, got {shown(args.image_size)}")
        size = tuple(map(int, sides)) if len(sides) == 2 else int(sides[0])
    check_checkpoint(args.checkpoint)
    if (path := local_path(source)) and is_work_folder(path):
        locate(path, args.checkpoint)
    fields, file = (_fields(option, getattr(args, option)) for option in ("set", "file"))
    return {"image_size": size, "revision": args.revision, "checkpoint": args.checkpoint, "file": file, **fields}


def _fields(option: str, words: list[str]) -> dict[str, Any]:
    fields = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--{option} takes FIELD=VALUE, got {shown(word)}")
        fields[name] = plain(f"--{option}={name}", read_value(value, None))
    return fields
