"""Matches evaluation data to the learned classes."""

from collections.abc import Sequence

import numpy as np

from vision_jax.data.classes import missing, numbers_among
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.told import tell_once
from vision_jax.files import printable

SHOWN = 5  # class names per line


def labelled(at: Evaluation):
    """The evaluation's source; raises ConfigError if it has no classes."""
    source = at.source
    if not source.num_classes:
        raise ConfigError(f"{at.key} needs data with classes, and {at.spec!r} has none; set evals.{at.name}.source")
    return source


def learned_numbers(source, spec, class_names: Sequence[str], num_classes: int, whose: str) -> np.ndarray:
    """int32[C]: the number of each class of `source`, which `spec` names, among the learned classes.

    Classes match by name, or by number if either has no names. Learned classes that `source` lacks are reported once.

    Args:
        class_names: of the learned classes, () if they have none. A model may have more outputs.
        num_classes: how many classes can be distinguished.
        whose: who learned them, for messages.

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
