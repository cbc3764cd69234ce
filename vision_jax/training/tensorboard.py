"""Reports to TensorBoard."""

import json
import textwrap
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from vision_jax.training.targets import RunInfo


class TensorBoard:
    """Event files in `tensorboard/` of the work folder, and the config as text at each start.

    Readers drop what an interrupted run wrote after the step from which this process resumes.
    """

    def __init__(self, run: RunInfo):
        purged = run.start_step + 1 if run.start_step else 0
        self._events = SummaryWriter(str(run.workdir / "tensorboard"), flush_secs=5, purge_step=purged)
        config = textwrap.indent(json.dumps(run.config, indent=2), "    ")  # a Markdown code block
        self._events.add_text("config", config, run.start_step)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._events.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, picture) -> None:
        self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._events.close()
