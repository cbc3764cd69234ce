"""What is measured of a model. An evaluator is `run(variables) -> {metric: value}`, made once a run."""

from vision_jax.evaluation.classification import ClassificationEvaluator

EVALUATORS = {"classification": ClassificationEvaluator}


def make_evaluators(task, config, mesh) -> dict:
    """name -> evaluator, for those that the task asks for and the config does not switch off (`every` empty)."""
    return {name: EVALUATORS[name](task, config, mesh) for name, every in task.evaluators(config).items() if every}
