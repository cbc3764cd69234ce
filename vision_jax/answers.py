"""What a model's outputs mean to people: classes, labels that a CLIP chooses from, numbers, or features.

jax is imported only where something is computed.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vision_jax.data.classes import some
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable
from vision_jax.weights.work_folder import is_work_folder

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Answering(NamedTuple):
    """How a model answers. `names`: number of an output -> its name, for the outputs shown; the rest: see `Outputs`."""

    function: Callable  # (variables, images) -> float32[B, outputs]
    names: dict[int, str]
    activation: str
    exclusive: bool


def answering_of(source, model, variables: dict, classes: tuple, templates: str, tokenizer: str) -> Answering:
    """How a source's model answers, with `classes` to choose from, or its own if they are ()."""
    from vision_jax.models.clip import CLIP
    from vision_jax.weights.work_folder import Outputs

    if isinstance(model, CLIP):
        names, prompts = names_and_prompts(source, classes, templates)
        probabilities = label_probabilities(model, variables, prompts, tokenizer or source.tokenizer)
        return Answering(probabilities, names, "sigmoid" if is_sigmoid(model) else "softmax", not is_sigmoid(model))
    names = [each.name for each in classes]
    own, count = (getattr(each, "num_classes", len(source.outputs.names)) for each in (source.create_model(), model))
    if not count:
        raise ConfigError("--model has no classes: --features=FILE.npz writes what it makes of pictures")
    outputs = source.outputs if own == count else Outputs()  # the source knows nothing about a new head
    shown = class_names(outputs.names, count, names)
    return Answering(answers(model, outputs), shown, outputs.activation, outputs.exclusive)


def answers(model, outputs) -> Callable:
    """(variables, images) -> float32[B, outputs]: class probabilities, or numbers in their own units."""
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


def class_names(names: Sequence[str], count: int, labels: Sequence[str]) -> dict[int, str]:
    """Number -> name, for those of a classifier's `count` outputs that are shown.

    `labels` are either some of the source's `names`, and then only these are shown, or other names for all outputs, in
    their order. Without labels all outputs are shown; those without a name by their numbers.
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


def names_and_prompts(source, classes: tuple, templates: str) -> tuple[dict[int, str], list[list[str]]]:
    """(number -> name, [classes][templates]) for a CLIP to choose from: `classes`, or those of the run that it comes from.

    A run's model gets the templates that it is evaluated with. Digits that it learned as figures are named by words, which
    stand for the figures; other classes that it did not learn are reported in a line on stderr.
    """
    from vision_jax.evaluation.prompts import class_prompts, open_templates, run_prompts

    own, own_templates = run_prompts(source.path.parent.parent) if is_work_folder(source.path) else ((), ())
    if not (classes or own):
        raise ConfigError('this CLIP has no classes of its own: --labels="cat,dog" gives some to choose from')
    learned = {each.name for each in own}
    word_of = {
        str(figure): word for figure, word in enumerate(DIGITS) if str(figure) in learned and word not in learned
    }
    figure_of = {word: figure for figure, word in word_of.items()}
    asked = classes or own
    if learned:  # underscores in learned names are spaces in texts
        words = (each.name.replace("_", " ") for each in asked)
        asked = [each._replace(name=figure_of.get(w.lower(), w)) for each, w in zip(asked, words, strict=True)]
    if learned and (new := [each.name for each in asked if each.name not in learned]):
        print(f"the run did not learn the class {some(new)}, only such as {some(sorted(learned))}", file=sys.stderr)
    names = [each.name for each in classes] or [word_of.get(each.name, each.name) for each in own]
    chosen = (open_templates(templates, "--templates") if templates else own_templates) or open_templates("plain")
    return dict(enumerate(names)), class_prompts(chosen, asked)


def label_probabilities(model, variables: dict, prompts: Sequence[Sequence[str]], tokenizer: str) -> Callable:
    """(variables, images) -> float32[B, labels] for a CLIP; prompts: [labels][templates]."""
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
    texts = [embed(variables, tokenize(each)) for each in prompts]  # equally many per label, so that one shape compiles
    labels, embed_pictures = ensembled(np.concatenate(texts), len(prompts)), features(model)

    def probabilities(variables, images):
        params = variables["params"]
        logits = jax.numpy.exp(params["logit_scale"]) * embed_pictures(variables, images) @ labels.T
        return jax.nn.sigmoid(logits + params["logit_bias"]) if is_sigmoid(model) else jax.nn.softmax(logits)

    return probabilities


def is_sigmoid(model) -> bool:
    """Whether a CLIP was trained to judge each pair separately, like SigLIP."""
    return model.logit_bias_init is not None


def features(model) -> Callable:
    """(variables, images) -> float32[B, D]: a CLIP's embeddings of length 1, else the input of a head."""
    from vision_jax.models.clip import CLIP
    from vision_jax.models.inference import encode

    if isinstance(model, CLIP):
        return lambda variables, images: model.apply(variables, images, normalize=True, method=CLIP.encode_image)
    return lambda variables, images: encode(model, variables, images)


def likeliest(row: np.ndarray, answering: Answering, top: int | None) -> list[int]:
    """Numbers of the outputs that are shown, likeliest first, equal ones in their order; for regression, all in order.

    `top` is the maximum; None stands for 5 if exactly one class is right, else for all.
    """
    numbers = np.array(list(answering.names))
    order = slice(None) if answering.activation == "identity" else np.argsort(-row[numbers], kind="stable")
    return numbers[order][
        : top or (5 if answering.exclusive and answering.activation != "identity" else len(numbers))
    ].tolist()
