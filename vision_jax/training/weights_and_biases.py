"""Reports to Weights & Biases."""

from collections.abc import Mapping

import wandb

from vision_jax.files import whole_file
from vision_jax.training.targets import RunInfo


class WeightsAndBiases:
    """One W&B run per work folder, identified by the file `wandb_id`: when a run resumes, so does the W&B run.

    Steps are logged as a metric of their own, so that steps which a killed run repeats can be logged again, with the same
    values; wandb's own counter only increases. Set everything else (entity, name, group) by wandb's environment variables.
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
