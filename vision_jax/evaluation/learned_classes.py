"""Evaluation data against the classes that were learned."""

from collections.abc import Sequence

import numpy as np

from vision_jax.data.classes import missing, numbers_among
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.told import tell_once
from vision_jax.files import printable

SHOWN = 5  # names of classes in a line


def labelled(at: Evaluation):
    """The evaluation's source; raises ConfigError where it has no classes."""
    source = at.source
    if not source.num_classes:
        raise ConfigError(f"{at.key} needs data with classes, and {at.spec!r} has none; set evals.{at.name}.source")
    return source


def learned_numbers(source, spec, class_names: Sequence[str], num_classes: int, whose: str) -> np.ndarray:
    """int32[C]: for each of the classes of `source`, which `spec` names, its number among those learned.

    By name, or where either has no names by number. Which of those learned have no example is told once.

    Args:
        class_names: of the classes learned, () where they have none. Outputs of a model may be more.
        num_classes: how many classes can be told apart.
        whose: who learned them, in messages.

    Raises:
        ConfigError: the source has a class that was not learned.
    """
    what = f"evaluation source {spec!r}"
    numbers = numbers_among(source, class_names, what, whose)
    if source.num_classes > num_classes:
        raise ConfigError(f"{what} has {source.num_classes} classes, {whose} only {num_classes}")
    if lost := missing(source, class_names):
        listed = ", ".join(f"'{printable(name)}'" for name in lost[:SHOWN]) + ", ..." * (len(lost) > SHOWN)
        tell_once(f"{what} lacks {len(lost)} of the {len(class_names)} classes that are learned: {listed}")
    return np.array(numbers, np.int32)
