"""What a run prints before its first step: what was shortened to fit, and settings that make little sense."""

import io
import statistics
from collections.abc import Iterator

from PIL import Image

from vision_jax.config import steps_of
from vision_jax.data.images import image_size
from vision_jax.files import printable
from vision_jax.training.setup import Setup
from vision_jax.training.start import Start

SAMPLED = 9  # number of pictures whose size is checked
ENLARGED = 1.5  # how far pictures may be enlarged without a note


def notes(start: Start) -> list[str]:
    """The notes, a line each."""
    setup = start.setup
    return [
        *_shortened(setup),
        *_otherwise_normalised(start),
        *_few_examples(setup),
        *_outputs_to_spare(setup),
        *_small_pictures(setup),
    ]


def _otherwise_normalised(start: Start) -> Iterator[str]:
    data, origin = start.setup.config.data, start.origin
    for key in ("mean", "std"):
        if origin and key in origin.data and tuple(origin.data[key]) != data[key]:
            theirs = tuple(origin.data[key])
            yield f"warning: data.{key}={data[key]} is {theirs} in {start.setup.config.init_from}"


def _shortened(setup: Setup) -> Iterator[str]:
    config, steps = setup.config, setup.derived["steps"]
    for key in ("warmup", "cooldown", "update_every"):
        asked = config.schedule.get(key, "")
        before = steps_of(asked, config.batch_size, setup.derived["train_examples"], f"schedule.{key}")
        if (now := steps[f"schedule.{key}"]) != before:
            yield (
                f"schedule.{key} is {now} steps instead of {before:,} ({asked}): the schedule would be longer than the training of"
                f" {steps['duration']:,}"
            )


def _few_examples(setup: Setup) -> Iterator[str]:
    batch, examples = setup.config.batch_size, len(setup.source)
    if batch > examples:
        yield (
            f"warning: batch_size={batch} is more than the {examples} training examples, so that a batch holds some of them"
            " twice; set a smaller one"
        )


def _outputs_to_spare(setup: Setup) -> Iterator[str]:
    outputs, classes = getattr(setup.task.model, "num_classes", 0), setup.source.num_classes
    if setup.task.class_names and outputs > classes > 0:
        yield (
            f"warning: model.num_classes={outputs} is more than the {classes} classes of the data; left unset, it is"
            f" {classes}"
        )


def _small_pictures(setup: Setup) -> Iterator[str]:
    """Only for files, whose first bytes give the size; pictures that come as arrays are small by design."""
    source, want = setup.source, min(image_size(setup.config.data))
    sides = []
    for number in sorted({i * len(source) // SAMPLED for i in range(SAMPLED)}):
        try:
            image = source[number]["image"]
            if isinstance(image, bytes):
                with Image.open(io.BytesIO(image)) as picture:
                    sides.append(min(picture.size))
        except Exception:  # a broken picture or record: training reports it on reading
            continue
    if sides and (side := int(statistics.median(sides))) * ENLARGED < want:
        yield (
            f"warning: the pictures of {printable(setup.config.data.train)} are small, {side} pixels high or wide, and are"
            f" enlarged to data.image_size={setup.config.data.image_size}"
        )
