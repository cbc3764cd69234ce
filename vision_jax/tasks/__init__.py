"""What a model is trained to do: see `tasks.task.Task`, the base class of every task."""

from vision_jax import parts
from vision_jax.data.classes import Labels, labels_of

TASKS = {
    "classification": "vision_jax.tasks.classification:Classification",
    "multi_label": "vision_jax.tasks.multi_label:MultiLabel",
    "regression": "vision_jax.tasks.regression:Regression",
    "masked_autoencoding": "vision_jax.tasks.masked_autoencoding:MaskedAutoencoding",
    "contrastive": "vision_jax.tasks.contrastive:Contrastive",
}


def make_task(config, source):
    """The task that `config.task` names, for the labels of a data `source`, or for given `Labels`."""
    task = parts.find("config.task", config.task, TASKS)
    fields = config.loss.own_fields
    if config.task in TASKS:  # built-in tasks ignore fields of other tasks
        fields = {name: value for name, value in fields.items() if name in parts.fields_of(task)}
    labels = source if isinstance(source, Labels) else labels_of(source)
    return task(config, labels, **parts.checked_fields(f"config.loss: task '{config.task}'", task, fields))
