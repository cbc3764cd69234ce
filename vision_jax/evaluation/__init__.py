"""What is measured on a model. An evaluator is made once per run: `Evaluator(evaluation, **fields)`, with

    metrics                                     the names of what it measures
    run(variables) -> {metric: value}           a number, or a picture uint8[H, W, 3]

An entry of `config.evals` names its kind and sets its fields; its results are reported as NAME/METRIC.
"""

import numpy as np

from vision_jax import parts
from vision_jax.config import Section
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.features import shared_features
from vision_jax.schema import SCHEMA

EVALUATORS = {
    "classification": "vision_jax.evaluation.of_task:ClassificationEvaluator",
    "multi_label": "vision_jax.evaluation.of_task:TaskEvaluator",
    "regression": "vision_jax.evaluation.of_task:TaskEvaluator",
    "task": "vision_jax.evaluation.of_task:TaskEvaluator",
    "knn": "vision_jax.evaluation.knn:KNNEvaluator",
    "linear_probe": "vision_jax.evaluation.linear_probe:LinearProbeEvaluator",
    "reconstruction": "vision_jax.evaluation.reconstruction:ReconstructionEvaluator",
    "zero_shot": "vision_jax.evaluation.zero_shot:ZeroShotEvaluator",
    "retrieval": "vision_jax.evaluation.retrieval:RetrievalEvaluator",
}
TAKEN = ("train", "seconds", "eval")  # prefixes of a run's metrics, now or in earlier versions


def make_evaluators(task, config, mesh) -> dict:
    """{name: evaluator}, for those that suit the task and that the config does not switch off (`every` empty).

    Raises ConfigError if the config asks for one that does not suit the task; a default value does not ask.
    """
    if config.evals.batch_size < 0:
        raise ConfigError(f"config.evals.batch_size must be 0 or above, got {config.evals.batch_size}")
    entries = {name: entry for name, entry in config.evals.items() if isinstance(entry, Section) and entry.every}
    if taken := [name for name in entries if name in TAKEN]:
        raise ConfigError(f"config.evals.{taken[0]}: '{taken[0]}/...' are other metrics; choose another name")
    return {
        name: make_evaluator(name, entry, task, config, mesh)
        for name, entry in entries.items()
        if entry.kind not in EVALUATORS or suits(name, entry, task, config)
    }


def suits(name: str, entry: Section, task, config) -> bool:
    """Whether the task supports a built-in kind; raises ConfigError if it does not and the config asks for it."""
    if entry.kind in (*task.evaluations, "task"):
        return True
    default = SCHEMA["evals"].keys.get(name)
    if default is None or entry.every != default.keys["every"].default:
        raise ConfigError(
            f"config.evals.{name} has kind {entry.kind!r}, but task {config.task!r} offers only"
            f" {', '.join(dict.fromkeys((*task.evaluations, 'task')))}"
        )
    return False


def make_evaluator(name: str, entry: Section, task, config, mesh):
    """The evaluator for an entry of `config.evals`."""
    key = f"config.evals.{name}"
    if not entry.kind:
        raise ConfigError(f"{key}.kind is not set: one of {', '.join(EVALUATORS)} or package.module:Attribute")
    kind = parts.find(f"{key}.kind", entry.kind, EVALUATORS, "run")
    if not callable(kind):  # an evaluator itself
        return kind
    fields = parts.checked_fields(key, kind, entry.own_fields)
    evaluator = kind(Evaluation(name, entry.source or config.data.eval, task, config, mesh), **fields)
    if lacks := [part for part in ("run", "metrics") if not hasattr(evaluator, part)]:
        raise ConfigError(f"{key}.kind={entry.kind!r} makes no evaluator: it has no '{lacks[0]}'")
    return evaluator


def measure(evaluators: dict, variables: dict) -> dict:
    """{"NAME/METRIC": number or picture} from all evaluators, run in turn; they share the features that they extract."""
    with shared_features():
        return {
            f"{name}/{metric}": _measured(f"{name}/{metric}", value)
            for name, evaluator in evaluators.items()
            for metric, value in evaluator.run(variables).items()
        }


def _measured(name: str, value) -> int | float | np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "biufV":  # V: bfloat16
        return int(array) if array.dtype.kind in "biu" else float(array)
    if array.dtype == np.uint8 and array.shape[2:] == (3,):
        return array
    raise ConfigError(
        f"{name} is {array.dtype}{list(array.shape)}: what is measured is a number, or a picture uint8[H, W, 3]"
    )
