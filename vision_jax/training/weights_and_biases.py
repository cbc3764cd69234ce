"""Reports to Weights & Biases."""

from collections.abc import Mapping

import wandb

from vision_jax.files import whole_file
from vision_jax.training.targets import RunInfo


class WeightsAndBiases:
    """One run there for one work folder, whose `wandb_id` says which: what goes on here goes on there.

    Steps are a number of their own, so that what a killed run does again is told again, with the same values, where wandb's
    own count would only go up. Whoever else may be asked (entity, name, group) is said by wandb's environment variables.
    """

    def __init__(self, run: RunInfo, *, project: str = "vision_jax", mode: str = "online"):
        kept = run.workdir / "wandb_id"
        goes_on = run.start_step > 0 and kept.is_file()
        self._run = wandb.init(
            project=project,
            mode=mode,
            dir=str(run.workdir),
            config=run.config,
            id=kept.read_text().strip() if goes_on else None,
            resume="allow" if goes_on else None,
        )
        with whole_file(kept) as file:
            file.write(f"{self._run.id}\n".encode())
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def picture(self, step: int, name: str, picture) -> None:
        self._run.log({"step": step, name: wandb.Image(picture)})

    def close(self) -> None:
        self._run.finish()
