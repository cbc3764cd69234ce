"""What is measured of a model. An evaluator is `run(variables) -> {metric: value}`, made once a run.

A value is a number, or a picture uint8[H, W, 3].
"""

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.evaluation.classification import ClassificationEvaluator
from vision_jax.evaluation.features import shared_features
from vision_jax.evaluation.knn import KNNEvaluator
from vision_jax.evaluation.linear_probe import LinearProbeEvaluator
from vision_jax.evaluation.reconstruction import ReconstructionEvaluator
from vision_jax.evaluation.retrieval import RetrievalEvaluator
from vision_jax.evaluation.zero_shot import ZeroShotEvaluator

EVALUATORS = {
    "classification": ClassificationEvaluator,
    "knn": KNNEvaluator,
    "linear_probe": LinearProbeEvaluator,
    "reconstruction": ReconstructionEvaluator,
    "zero_shot": ZeroShotEvaluator,
    "retrieval": RetrievalEvaluator,
}


def make_evaluators(task, config, mesh) -> dict:
    """name -> evaluator, for those that the task offers and the config does not switch off (`every` empty).

    Raises ConfigError where the config asks for one that the task does not offer; a default asks for nothing.
    """
    if config.evals.batch_size < 0:
        raise ConfigError(f"config.evals.batch_size must be 0 or above, got {config.evals.batch_size}")
    offered, defaults = task.evaluators(config), base_config().evals
    for name in EVALUATORS:
        every = config.evals[name].every
        if name not in offered and every not in ("", defaults[name].every):
            raise ConfigError(
                f"config.evals.{name}.every={every!r}, but task {config.task!r} offers no {name}, only {', '.join(offered)}"
            )
    return {name: EVALUATORS[name](task, config, mesh) for name, every in offered.items() if every}


def measure(evaluators: dict, variables: dict) -> dict:
    """{"eval/METRIC": value} of all evaluators, one after the other; they share the features that they extract."""
    with shared_features():
        return {
            f"eval/{metric}": value
            for evaluator in evaluators.values()
            for metric, value in evaluator.run(variables).items()
        }
