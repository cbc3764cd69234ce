"""What a model sees in pictures: its classes or numbers, the likeliest of any labels (CLIP), or features.

    vision-jax predict --model=google/vit-base-patch16-224 cat.jpg holidays       # files and folders
    vision-jax predict --model=openai/clip-vit-base-patch32 --labels="cat,dog" cat.jpg
    vision-jax predict --model=runs/vit --checkpoint=best --features=features.npz holidays

`--model` is whatever `vj.load_pretrained` takes. Files that cannot be read are named and skipped.
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
from vision_jax.data.classes import some
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable, user_path

THREADS = 4  # that read and decode pictures


def answers(model, outputs) -> Callable:
    """(variables, images) -> float32[B, outputs]: probabilities of classes, or numbers in their own units."""
    import jax

    activation = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "identity": jax.nn.identity}[outputs.activation]
    mean, std = np.float32(outputs.mean), np.float32(outputs.std)

    def function(variables, images):
        found = model.apply(variables, images)
        if getattr(found, "ndim", 0) != 2:
            shape = f"{list(found.shape[1:])} a picture" if hasattr(found, "shape") else f"a {type(found).__name__}"
            raise ConfigError(
                f"--model makes {shape}, not a number for each class; vj.load_pretrained gives it to a program of yours"
            )
        return activation(found) * std + mean

    return function


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


def class_names(names: Sequence[str], count: int, labels: Sequence[str]) -> dict[int, str]:
    """Number -> name of those of a classifier's `count` outputs that are shown.

    `labels` are some of the `names` that the source has for its outputs, which alone are shown, or others for all of them,
    in their order. Without labels all are shown; those without a name by their numbers.
    """
    own = dict(zip(range(count), names, strict=False))
    if not labels:
        return {number: own.get(number, f"class {number}") for number in range(count)}
    unknown = [label for label in labels if label not in own.values()]
    if not unknown:
        return {number: name for number, name in own.items() if name in labels}
    if len(unknown) == len(labels) == count:
        return dict(enumerate(labels))
    guess = did_you_mean(printable(unknown[0]), map(printable, own.values())) if own else ""
    raise ConfigError(
        f"--labels: the model has no class {some(unknown)}{guess}; new names for all of its {count} classes, in their"
        f" order, would be {count}, not {len(labels)}"
    )


def predict(
    model: str | pathlib.Path,
    images,
    *,
    labels: Sequence[str] = (),
    templates: str = "plain",
    tokenizer: str = "",
    top: int | None = None,
    batch_size: int = 32,
    **arguments,
) -> list[list[tuple[str, float]]]:
    """What a model sees in pictures: for each the (class, probability) pairs, likeliest first, or (target, value) pairs.

    Args:
        model: whatever `vj.load_pretrained` takes, as `arguments` are those of it.
        images: a picture or a list of them: a file's path, its bytes, a PIL.Image or uint8[h, w, 1, 3 or 4].
        labels: names to choose from: needed for a CLIP, in prompts that `templates` makes.
        tokenizer: of a CLIP, as data.tokenizer; empty: the source's, or clip.
        top: pairs a picture; None stands for 5 of classes of which one is right, and else for all.

    Raises:
        ConfigError: as `vj.load_pretrained`; BrokenImage: for a picture that cannot be read.
    """
    import jax

    from vision_jax.evaluation.prompts import ClassName
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    images = list(images) if isinstance(images, list | tuple) or np.ndim(images) == 4 else [images]
    source, module, variables = open_pretrained(model, **arguments)
    transform = preprocessing_of(source, arguments.get("image_size"))
    function, names, activation = answering(
        source, module, variables, tuple(map(ClassName, labels)), templates, tokenizer
    )
    step, found = jax.jit(function), []
    for start in range(0, len(images), batch_size):
        rows = np.asarray(step(variables, np.stack([transform(image) for image in images[start : start + batch_size]])))
        found += [[(names[i], float(row[i])) for i in likeliest(row, names, top, activation)] for row in rows]
    return found


def answering(source, model, variables: dict, classes: tuple, templates: str, tokenizer: str) -> tuple:
    """((variables, images) -> answers, number -> name of those that are shown, what the answers are: see `Outputs`)."""
    from vision_jax.evaluation.prompts import class_prompts, open_templates
    from vision_jax.models.clip import CLIP
    from vision_jax.weights.work_folder import Outputs

    names = [each.name for each in classes]
    if isinstance(model, CLIP):
        if not classes:
            raise ConfigError('a CLIP chooses among --labels="cat,dog"; --features=FILE.npz writes its embeddings')
        prompts = class_prompts(open_templates(templates, "--templates"), classes)
        probabilities = label_probabilities(model, variables, prompts, tokenizer or source.tokenizer)
        return probabilities, dict(enumerate(names)), "softmax"
    own, count = (getattr(each, "num_classes", len(source.outputs.names)) for each in (source.create_model(), model))
    if not count:
        raise ConfigError("--model has no classes: --features=FILE.npz writes what it makes of pictures")
    outputs = source.outputs if own == count else Outputs()  # of a new head the source knows nothing
    return answers(model, outputs), class_names(outputs.names, count, names), outputs.activation


def likeliest(row: np.ndarray, names: dict[int, str], top: int | None, activation: str) -> list[int]:
    """Numbers of the outputs that have `names`, the likeliest first, equal ones in their order; of numbers all in order.

    `top` is how many at most; None stands for 5 of classes of which one is right, and else for all.
    """
    numbers = np.array(list(names))
    order = slice(None) if activation == "identity" else np.argsort(-row[numbers], kind="stable")
    return numbers[order][: top or (5 if activation == "softmax" else len(numbers))].tolist()


def run(args: argparse.Namespace) -> None:
    from vision_jax.data.sources.pictures import Pictures
    from vision_jax.evaluation.prompts import open_templates
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    # What the user may have got wrong is looked at before the model is loaded and run.
    pictures, arguments = Pictures(args.images), source_arguments(args)
    classes, out = classes_of(args.labels) if args.labels else (), user_path(args.features)
    open_templates(args.templates, "--templates")
    if args.features and not out.parent.is_dir():
        raise ConfigError(f"--features: cannot write {out}: there is no folder {out.parent}")
    source, model, variables = open_pretrained(args.model, **arguments)
    transform = preprocessing_of(source, arguments["image_size"])
    if args.features:
        rows = every_picture(features(model), variables, pictures, transform, args.batch_size)
        write_features(out, list(rows))
        return
    function, names, activation = answering(source, model, variables, classes, args.templates, args.tokenizer)
    for path, row in every_picture(function, variables, pictures, transform, args.batch_size):
        tqdm.write(shown_answers(path, row, names, likeliest(row, names, args.top, activation), activation, args.json))


def shown_answers(
    path, row: np.ndarray, names: dict[int, str], best: Sequence[int], activation: str, as_json: bool
) -> str:
    """A picture's answers as lines for people, or one JSON object."""
    key, form = ("value", "10.4g") if activation == "identity" else ("probability", "8.2%")
    if as_json:
        found = [{"label": names[i], "index": i, key: float(row[i])} for i in best]
        return json.dumps({"file": str(path), "predictions": found})
    return "\n".join([printable(path), *(f"{row[i]:{form}}  {printable(names[i])}" for i in best)])


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
    parser = Parser("vision-jax predict", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of pictures to any depth")
    parser.add_argument("--model", required=True, metavar="SOURCE", help="a path, or an id of the Hugging Face hub")
    parser.add_argument("--labels", default="", help="names to choose from, separated by commas, or a JSON file")
    parser.add_argument("--templates", default="plain", help="prompts of a CLIP: a built-in set or a JSON file (plain)")
    parser.add_argument("--tokenizer", default="", help="of a CLIP, as data.tokenizer (default: the source's, or clip)")
    parser.add_argument("--features", default="", metavar="FILE.npz", help="write features instead")
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
