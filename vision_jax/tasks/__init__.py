"""What a model is trained to do.

A task is an object of pure functions, and the trainer knows no more of it than this:

    init(rng, batch) -> variables
    loss(variables, batch, rng, train) -> scalar, (updated_collections, metrics)    metrics: name -> (sum, count)
    features(variables, batch) -> float32[B, D]                                     frozen features, in evaluation mode
    evaluators(config) -> {name: how often}                                         names of vision_jax.evaluation
    constrain(params) -> params                                                     after every update
    separable: bool                                                                 see `tasks.task.Task`
    class_names: (name, ...)                                                        of the model's outputs, if they have any

`metrics["loss"]` is always there; its count is the number of valid examples that the scalar is the mean over.
"""

from vision_jax.tasks.classification import Classification
from vision_jax.tasks.contrastive import Contrastive
from vision_jax.tasks.masked_autoencoding import MaskedAutoencoding

TASKS = {
    "classification": Classification,
    "masked_autoencoding": MaskedAutoencoding,
    "contrastive": Contrastive,
}


def make_task(config, source):
    """The task that `config.task` names, for the classes of a data `source`."""
    return TASKS[config.task](config, source)
