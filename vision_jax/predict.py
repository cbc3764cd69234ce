"""What a model sees in pictures: its classes, the likeliest of any labels (CLIP), or features.

    python -m vision_jax.predict --model=google/vit-base-patch16-224 cat.jpg holidays       # files and folders
    python -m vision_jax.predict --model=openai/clip-vit-base-patch32 --labels="cat,dog" cat.jpg
    python -m vision_jax.predict --model=runs/vit --checkpoint=best --features=features.npz holidays

`--model` is whatever `vj.load_pretrained` takes. Files that cannot be read are named and skipped. Errors that a user can
mend are one line on stderr and exit status 2.
"""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from vision_jax.command_line import Parser, add_source_arguments, report_errors, source_arguments
from vision_jax.config import nearest
from vision_jax.data.classes import some
from vision_jax.errors import ConfigError
from vision_jax.files import printable, user_path

THREADS = 4  # that read and decode pictures


def class_probabilities(model) -> Callable:
    """(variables, images) -> float32[B, classes] of a classifier."""
    import jax

    if not getattr(model, "num_classes", 0):
        raise ConfigError("--model has no classes: --features=FILE.npz writes what it makes of pictures")
    return lambda variables, images: jax.nn.softmax(model.apply(variables, images))


def label_probabilities(model, variables: dict, prompts: Sequence[Sequence[str]], tokenizer: str) -> Callable:
    """(variables, images) -> float32[B, labels] of a CLIP; prompts: [labels][templates]."""
    import jax

    from vision_jax.data.tokenizers import open_tokenizer
    from vision_jax.evaluation.zero_shot import ensembled
    from vision_jax.models.clip import CLIP

    tokenize = open_tokenizer(tokenizer, model.context_length)
    if tokenize.vocab_size != model.vocab_size:
        raise ConfigError(
            f"--tokenizer={tokenizer} has {tokenize.vocab_size} tokens, the model's vocabulary {model.vocab_size}"
        )
    embed = jax.jit(lambda variables, tokens: model.apply(variables, tokens, normalize=True, method=CLIP.encode_text))
    texts = [embed(variables, tokenize(each)) for each in prompts]  # as many a label, so that one shape compiles
    labels, embed_pictures = ensembled(np.concatenate(texts), len(prompts)), features(model)

    def probabilities(variables, images):
        scale = jax.numpy.exp(variables["params"]["logit_scale"])
        return jax.nn.softmax(scale * embed_pictures(variables, images) @ labels.T)

    return probabilities


def features(model) -> Callable:
    """(variables, images) -> float32[B, D]: a CLIP's embeddings of length 1, otherwise what a head would see."""
    from vision_jax.models.clip import CLIP
    from vision_jax.models.inference import encode

    if isinstance(model, CLIP):
        return lambda variables, images: model.apply(variables, images, normalize=True, method=CLIP.encode_image)
    return lambda variables, images: encode(model, variables, images)


def every_picture(function: Callable, variables: dict, source, transform, batch_size: int) -> Iterator[tuple]:
    """(path, row of `function(variables, images)`) of each readable picture; the others are named on stderr.

    Raises ConfigError where there is none.
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
            bar.update(len(chunk))  # while the device works on the next pictures
            readable += len(paths)
            yield from zip(paths, np.asarray(rows), strict=False)
    if not readable:
        raise ConfigError("none of the pictures can be read")


def _read(path: pathlib.Path, transform) -> np.ndarray | str:
    """The picture, or why it cannot be read."""
    from vision_jax.data.images import BrokenImage

    try:
        return transform(path)
    except BrokenImage as error:
        return printable(error, 400)


def classes_of(labels: str) -> tuple:
    """The `ClassName`s of "cat,dog", or of a JSON file, whose entries may have a context."""
    from vision_jax.evaluation.prompts import ClassName, listed_classes

    if labels.endswith(".json"):
        return listed_classes(labels, "--labels")
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--labels takes names, separated by commas, or a JSON file; got {labels!r}")
    return tuple(map(ClassName, names))


def class_names(source, model, labels: Sequence[str]) -> dict[int, str]:
    """Number -> name of the outputs of a classifier that are shown.

    `labels` are some of the names that the source has for its outputs, which alone are shown, or others for all of them,
    in their order. Without labels all are shown; those without a name by their numbers.
    """
    count = model.num_classes
    is_new = source.create_model().num_classes != count  # the head, whose outputs are not those that the source names
    own = {} if is_new else dict(zip(range(count), source.class_names, strict=False))
    if not labels:
        return {number: own.get(number, f"class {number}") for number in range(count)}
    unknown = [label for label in labels if label not in own.values()]
    if not unknown:
        return {number: name for number, name in own.items() if name in labels}
    if len(unknown) == len(labels) == count:
        return dict(enumerate(labels))
    guess = nearest(printable(unknown[0]), map(printable, own.values())) if own else ""
    raise ConfigError(
        f"--labels: the model has no class {some(unknown)}{guess}; new names for all of its {count} classes, in their"
        f" order, would be {count}, not {len(labels)}"
    )


def predict(args: argparse.Namespace) -> None:
    from vision_jax.data.sources.pictures import Pictures
    from vision_jax.evaluation.prompts import class_prompts, open_templates
    from vision_jax.models.clip import CLIP
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    # What the user may have got wrong is looked at before the model is loaded and run.
    pictures, arguments = Pictures(args.images), source_arguments(args)
    classes, templates = classes_of(args.labels) if args.labels else (), open_templates(args.templates, "--templates")
    names, out = [each.name for each in classes], user_path(args.features)
    if args.features and not out.parent.is_dir():
        raise ConfigError(f"--features: cannot write {out}: there is no folder {out.parent}")
    source, model, variables = open_pretrained(args.model, **arguments)
    transform = preprocessing_of(source, arguments["image_size"])

    def rows(function: Callable) -> Iterator[tuple]:
        return every_picture(function, variables, pictures, transform, args.batch_size)

    if args.features:
        write_features(out, list(rows(features(model))))
    elif not isinstance(model, CLIP):
        probabilities = class_probabilities(model)
        show(rows(probabilities), class_names(source, model, names), args.top, args.json)
    elif not classes:
        raise ConfigError('a CLIP chooses among --labels="cat,dog"; --features=FILE.npz writes its embeddings')
    else:
        prompts = class_prompts(templates, classes)
        probabilities = label_probabilities(model, variables, prompts, args.tokenizer or source.tokenizer)
        show(rows(probabilities), dict(enumerate(names)), args.top, args.json)


def show(rows: Iterator[tuple], names: dict[int, str], top: int, as_json: bool) -> None:
    """Prints the likeliest of the classes that have `names`, for each picture, equal ones in their order."""
    numbers = np.array(list(names))
    for path, row in rows:
        best = numbers[np.argsort(-row[numbers], kind="stable")[:top]]
        if as_json:
            found = [{"label": names[int(i)], "index": int(i), "probability": float(row[i])} for i in best]
            tqdm.write(json.dumps({"file": str(path), "predictions": found}))
        else:
            tqdm.write("\n".join([printable(path), *(f"{row[i]:8.2%}  {printable(names[int(i)])}" for i in best)]))


def write_features(path: pathlib.Path, rows: list[tuple]) -> None:
    """`features` float32[n, D] and `files`, the names of the n pictures that could be read."""
    files, values = zip(*rows, strict=True)
    try:
        with open(path, "wb") as file:
            np.savez(file, features=np.stack(values), files=np.array(list(map(str, files))))
    except OSError as error:
        raise ConfigError(f"--features: cannot write {path}: {error.strerror}") from error
    print(f"{path}: features [{len(values)}, {len(values[0])}]")


@report_errors
def main() -> None:
    parser = Parser("vision_jax.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of pictures to any depth")
    parser.add_argument("--model", required=True, metavar="SOURCE", help="a path, or an id of the Hugging Face hub")
    parser.add_argument(
        "--labels", default="", help="names to choose from, separated by commas, or a JSON file of them"
    )
    parser.add_argument("--templates", default="plain", help="prompts of a CLIP: a built-in set or a JSON file (plain)")
    parser.add_argument("--tokenizer", default="", help="of a CLIP, as data.tokenizer (default: the source's, or clip)")
    parser.add_argument("--features", default="", metavar="FILE.npz", help="write features instead")
    parser.add_argument("--top", type=int, default=5, help="classes shown a picture (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and picture")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures a step (default: 32)")
    add_source_arguments(parser)
    args = parser.parse_args()
    for name in ("top", "batch_size"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    predict(args)


if __name__ == "__main__":
    main()
