"""Which classes a classifier confuses, found by evaluating its data again."""

import functools
import io
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data.images import BrokenImage, decode
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.examples import every_row
from vision_jax.evaluation.of_task import ClassificationEvaluator
from vision_jax.evaluation.picture_grid import enlarged
from vision_jax.tasks import make_task
from vision_jax.tasks.classification import Classification
from vision_jax.training.checkpoints import read_variables
from vision_jax.training.partitioning import make_mesh, replicated
from vision_jax.training.setup import init_variables, process_settings
from vision_jax.weights.work_folder import learned_labels, locate, read_run_config

ROWS = 256  # examples per batch, on whatever machine writes the report
SIDE = 160  # longest side of a shown picture in pixels, unless it has to be enlarged


class Mistake(NamedTuple):
    """A picture that a classifier assigns to a wrong class: PNG bytes, classes, the probabilities of both."""

    picture: bytes
    is_: str
    taken_for: str
    probability: float  # of the predicted class
    of_right: float


class Answers(NamedTuple):
    """A classifier's predictions for every readable example of its evaluation data."""

    source: str
    step: int  # of the checkpoint
    class_names: tuple[str, ...]
    confusion: np.ndarray  # int[C, C]: number of examples by true class and predicted class
    mistakes: list[Mistake]  # the most confident ones, in descending order of confidence

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.confusion.sum())


def classify(workdir: pathlib.Path, checkpoint: str, most: int) -> Answers | None:
    """A run's classifier on its evaluation data, with at most `most` mistakes; None if it is not a classifier.

    checkpoint: "last", "best" or a step. Raises ConfigError if checkpoint or data are missing.
    """
    config = read_run_config(workdir)
    config.evals.batch_size = min(config.evals.batch_size or config.batch_size, ROWS)
    task = make_task(config, learned_labels(workdir, config))
    if not isinstance(task, Classification):
        return None
    folder, mesh = locate(workdir, checkpoint), make_mesh(base_config())  # any devices will do
    name, spec = _evaluated(config)
    with process_settings(config), jax.set_mesh(mesh):
        evaluator = ClassificationEvaluator(Evaluation(name, spec, task, config, mesh))
        rows = every_row(functools.partial(_answer, task), mesh)
        batches = evaluator.at.batches(evaluator.source, evaluator.reader)
        expected = jax.eval_shape(lambda: init_variables(config, task))
        variables = read_variables(folder, expected, replicated(mesh))
        parts = list(rows(variables, batches))
    ids, labels, taken, sure, right = map(np.concatenate, zip(*parts, strict=True))
    if not len(ids):
        raise ConfigError(f"none of the images of {spec!r} can be read")
    names = [*task.class_names, *(f"class {i}" for i in range(len(task.class_names), task.num_classes))]
    confusion = np.zeros((task.num_classes,) * 2, int)
    np.add.at(confusion, (labels, taken), 1)
    wrong = np.flatnonzero(labels != taken)
    mistakes = [
        Mistake(
            _thumbnail(evaluator.source[int(ids[i])]["image"]),
            names[labels[i]],
            names[taken[i]],
            float(sure[i]),
            float(right[i]),
        )
        for i in wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    ]
    return Answers(str(spec), int(folder.name), tuple(names), confusion, mistakes)


def _answer(task, variables: dict, batch: dict) -> tuple:
    """Ids, labels, predicted classes, and the probabilities of the predictions and of the labels."""
    probabilities = jax.nn.softmax(task.outputs(variables, batch)[0].astype(jnp.float32))
    right = jnp.take_along_axis(probabilities, batch["label"][:, None], axis=1)[:, 0]
    return batch["id"], batch["label"], probabilities.argmax(-1), probabilities.max(-1), right


def _evaluated(config) -> tuple[str, Any]:
    """The entry of config.evals that measures the classifier, and the source that it uses."""
    for name, entry in config.evals.items():
        if getattr(entry, "kind", "") == "classification" and entry.every:
            return name, entry.source or config.data.eval
    return "classification", config.data.eval


def _thumbnail(picture) -> bytes:
    """A PNG of a source's picture: shrunk to `SIDE`, or enlarged by a whole factor if it is smaller."""
    try:
        image = decode(picture)
    except BrokenImage as error:  # the data's own limits allow it, but these do not
        raise ConfigError(f"a picture cannot be shown: {error}") from error
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    Image.fromarray(enlarged(np.asarray(image.convert("RGB")))).save(file, format="PNG")
    return file.getvalue()
