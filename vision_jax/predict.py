"""What a model sees in pictures: its classes or numbers, the likeliest of any labels (CLIP), or features.

    vision-jax predict --model=google/vit-base-patch16-224 cat.jpg holidays       # files and folders
    vision-jax predict --model=openai/clip-vit-base-patch32 --labels="cat,dog" cat.jpg
    vision-jax predict --model=runs/clip --out=seen holidays                      # its classes, and pictures of it
    vision-jax predict --model=runs/vit --checkpoint=best --features=features.npz holidays

`--model` is whatever `vj.load_pretrained` takes. Pictures are prepared as the source says; a run's classes, templates and
tokenizer are its own. Files that cannot be read are named and skipped.
"""

import argparse
import itertools
import json
import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from vision_jax.answers import answering_of, features, likeliest
from vision_jax.command_line import Parser, report_errors
from vision_jax.data.sources.pictures import Pictures
from vision_jax.errors import ConfigError
from vision_jax.files import printable, user_path
from vision_jax.sheets import Sheets
from vision_jax.source_arguments import add_source_arguments, source_arguments

THREADS = 4  # for reading and decoding pictures


def every_picture(function: Callable, variables: dict, source, transform, batch_size: int) -> Iterator[tuple]:
    """(path, row of `function(variables, images)`) for each readable picture; the others are named on stderr.

    Raises ConfigError if there is none.
    """
    import jax

    step, size = jax.jit(function), min(batch_size, len(source))
    readable = 0
    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(source), unit=" pictures", disable=None) as bar:

        def steps():
            for start in range(0, len(source), size):
                chunk = source.paths[start : start + size]
                pictures = dict(zip(chunk, pool.map(lambda path: _read(path, transform), chunk), strict=True))
                for path in [path for path, picture in pictures.items() if isinstance(picture, str)]:
                    tqdm.write(f"skipped {printable(path)}: {pictures.pop(path)}", file=sys.stderr)
                if pictures:
                    images = np.stack(list(pictures.values()))
                    padding = [(0, size - len(images)), (0, 0), (0, 0), (0, 0)]
                    yield chunk, list(pictures), step(variables, np.pad(images, padding))

        for (chunk, paths, rows), _ in itertools.pairwise(itertools.chain(steps(), [None])):
            bar.update(len(chunk))  # while the device computes the next pictures
            readable += len(paths)
            yield from zip(paths, np.asarray(rows), strict=False)
    if not readable:
        raise ConfigError("none of the pictures can be read")


def _read(path: pathlib.Path, transform) -> np.ndarray | str:
    """The picture, or the reason why it cannot be read."""
    from vision_jax.data.images import BrokenImage

    try:
        return transform(path)
    except BrokenImage as error:
        return printable(error, 400)


def classes_of(labels: str) -> tuple:
    """The `ClassName`s in "cat,dog", or in a JSON file, whose entries may have a context."""
    from vision_jax.evaluation.prompts import ClassName, listed_classes

    if labels.endswith(".json"):
        return listed_classes(labels, "--labels")
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--labels takes names, separated by commas, or a JSON file; got {labels!r}")
    return tuple(map(ClassName, names))


def predict(
    model: str | pathlib.Path,
    images,
    *,
    labels: Sequence[str] = (),
    templates: str = "",
    tokenizer: str = "",
    top: int | None = None,
    batch_size: int = 32,
    exif: bool | None = None,
    **arguments,
) -> list[list[tuple[str, float]]]:
    """What a model sees in pictures: for each one (class, probability) pairs, likeliest first, or (target, value) pairs.

    Args:
        model: whatever `vj.load_pretrained` takes; `arguments` are passed on to it.
        images: a picture or a list of them: a file's path, its bytes, a PIL.Image or uint8[h, w, 1, 3 or 4].
        labels: names to choose from, in prompts from `templates`: required for a CLIP that is not a run with classes.
        templates: a built-in set or a JSON file; empty: the run's own, or "plain".
        tokenizer: for a CLIP, as data.tokenizer; empty: the source's, or clip.
        top: pairs per picture; None stands for 5 if exactly one class is right, else for all.
        exif: whether to rotate pictures by their EXIF orientation; None: as the source's own project does.

    Raises:
        ConfigError: like `vj.load_pretrained`; BrokenImage: for a picture that cannot be read.
    """
    import jax

    from vision_jax.evaluation.prompts import ClassName
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    images = list(images) if isinstance(images, list | tuple) or np.ndim(images) == 4 else [images]
    source, module, variables = open_pretrained(model, **arguments)
    transform = preprocessing_of(source, arguments.get("image_size"), exif)
    answering = answering_of(source, module, variables, tuple(map(ClassName, labels)), templates, tokenizer)
    step, found = jax.jit(answering.function), []
    for start in range(0, len(images), batch_size):
        rows = np.asarray(step(variables, np.stack([transform(image) for image in images[start : start + batch_size]])))
        found += [[(answering.names[i], float(row[i])) for i in likeliest(row, answering, top)] for row in rows]
    return found


def run(args: argparse.Namespace) -> None:
    # What the user may have got wrong is checked before jax is imported and the model loaded and run.
    pictures, arguments = Pictures(args.images), source_arguments(args, args.model)
    out = user_path(args.features)
    if args.features and args.out:
        raise ConfigError("--out shows answers, and --features writes none: give one of them")
    if args.features and not out.parent.is_dir():
        raise ConfigError(f"--features: cannot write {out}: there is no folder {out.parent}")
    sheets = Sheets(user_path(args.out)) if args.out else None
    from vision_jax.evaluation.prompts import open_templates
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    classes = classes_of(args.labels) if args.labels else ()
    if args.templates:
        open_templates(args.templates, "--templates")
    source, model, variables = open_pretrained(args.model, **arguments)
    transform = preprocessing_of(source, arguments["image_size"], {"": None, "yes": True, "no": False}[args.exif])
    if args.features:
        rows = every_picture(features(model), variables, pictures, transform, args.batch_size)
        write_features(out, list(rows))
        return
    answering = answering_of(source, model, variables, classes, args.templates, args.tokenizer)
    is_number = answering.activation == "identity"
    for path, row in every_picture(answering.function, variables, pictures, transform, args.batch_size):
        found = [(i, answering.names[i], float(row[i])) for i in likeliest(row, answering, args.top)]
        tqdm.write(as_json(path, found, is_number) if args.json else as_lines(path, found, is_number))
        if sheets:
            sheets.add(transform.opened(path), path.name, [(name, value) for _, name, value in found], is_number)
    for path, count in sheets.close() if sheets else ():
        print(f"{path}: {count} picture{'s' * (count > 1)}", file=sys.stderr if args.json else sys.stdout)


def as_lines(path, found: Sequence[tuple[int, str, float]], is_number: bool) -> str:
    """A picture's (number, name, value) triples as text for people."""
    form = "10.4g" if is_number else "8.2%"
    return "\n".join([printable(path), *(f"{value:{form}}  {printable(name)}" for _, name, value in found)])


def as_json(path, found: Sequence[tuple[int, str, float]], is_number: bool) -> str:
    """The same triples as a JSON object."""
    key = "value" if is_number else "probability"
    rows = [{"label": name, "index": number, key: value} for number, name, value in found]
    return json.dumps({"file": str(path), "predictions": rows})


def write_features(path: pathlib.Path, rows: list[tuple]) -> None:
    """`features` float32[n, D] and `files`, the names of the n pictures that could be read."""
    files, values = zip(*rows, strict=True)
    try:
        with open(path, "wb") as file:
            np.savez(file, features=np.stack(values), files=np.array(list(map(str, files))))
    except OSError as error:
        raise ConfigError(f"--features: cannot write {path}: {error.strerror}") from error
    print(f"{path}: features [{len(values)}, {len(values[0])}]")


class _CallableModule(types.ModuleType):
    """Once imported, this module is what `vj.predict` means, since it lies in the package; so it can be called, too."""

    def __call__(self, *args, **kwargs):
        return predict(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule


@report_errors
def main() -> None:
    parser = Parser("vision-jax predict", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of pictures to any depth")
    parser.add_argument("--model", required=True, metavar="SOURCE", help="a path, or an id of the Hugging Face hub")
    parser.add_argument("--labels", default="", help="names to choose from, separated by commas, or a JSON file")
    parser.add_argument(
        "--templates",
        default="",
        help="prompts of a CLIP: a built-in set or a JSON file (default: the run's, or plain)",
    )
    parser.add_argument("--tokenizer", default="", help="of a CLIP, as data.tokenizer (default: the source's, or clip)")
    parser.add_argument("--features", default="", metavar="FILE.npz", help="write features instead")
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="write sheets of the pictures with their answers, too"
    )
    parser.add_argument(
        "--exif",
        default="",
        choices=("yes", "no"),
        help="turn pictures as their EXIF orientation says (default: as the source's own project does: transformers yes,"
        "\nothers and runs no)",
    )
    parser.add_argument(
        "--top", type=int, help="classes shown a picture (default: 5, or all that may be right at once)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line and picture")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures a step (default: 32)")
    add_source_arguments(parser)
    args = parser.parse_args()
    for name in ("top", "batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")
    run(args)


if __name__ == "__main__":
    main()
