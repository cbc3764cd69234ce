"""Training and its results from Python: a script, a notebook, a loop of your own. As a command: a table of runs.

run = vj.train("vit_digits", overrides={"batch_size": 32, "model.width": 64})
run.history["classification/top1"].value, run.variables, run.predict("seven.png")
"""

import copy
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision_jax import parts
from vision_jax.command_line import Parser, load_config, report_errors
from vision_jax.config import Section, from_dict, set_key
from vision_jax.errors import Stopped, not_installed
from vision_jax.reports.records import Series, read_history, read_record, read_records, read_summary
from vision_jax.reports.tables import table_of_runs
from vision_jax.weights.work_folder import (
    checkpoint_steps,
    learned_labels,
    local_folder,
    outputs_of,
    read_run_config,
)

OF_THE_COMMAND = """Prints what runs are, how far they are, what they measured last and where their configs differ.

    vision-jax runs runs/digits             # one alone: beside the defaults
    vision-jax runs runs                    # all in a folder

The state is "running" where a process trains it, "finished", or "stopped" at the step that is saved.
"""


def train(
    config: str | pathlib.Path | Mapping,
    workdir: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    model=None,
    task=None,
    train_data=None,
    eval_data=None,
    evaluators: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[[int, dict], None]] = (),
    accept: Sequence[str] = (),
) -> "Run":
    """Trains what a config describes in `workdir`, or resumes the run there.

    A signal, such as a notebook's interrupt, stops it after a step, with everything saved; `resume()` continues.

    Args:
        config: a file, the name of one that comes with the package (each with ":ARG" if it takes one), a dictionary of
            what differs from the defaults, or a config. It is not changed.
        workdir: of the run; a new temporary folder by default.
        overrides: values by dotted key, such as "model.width".
        model: a flax.linen.Module, or a function that makes one from `config.model`'s fields.
        task: a class such as `vision_jax.tasks.classification.Classification`.
        train_data, eval_data: sources: `len` and `[i]`, see `vision_jax.data.sources`.
        evaluators: name -> an evaluator, or a class of evaluators, see `vision_jax.evaluation`.
        callbacks: `callback(step, metrics)` after every report.
        accept: changes since the run began that are intended, as on the command line.

    Raises:
        ConfigError: for a run that cannot work; RunError: if something outside the config ends it.
    """
    name = str(config) if isinstance(config, str | pathlib.Path) else ""
    config, objects = as_config(config), _objects(model, task, train_data, eval_data, evaluators)
    for key, value in [*map(_place, objects), *(overrides or {}).items()]:
        set_key(config, key, value)
    folder = tempfile.mkdtemp(prefix="vision_jax_") if workdir is None else workdir
    return Run(folder, objects, config, name)._train(accept, callbacks)


def as_config(config: str | pathlib.Path | Mapping) -> Section:
    """A config as a new object, which the caller does not share; see `train`."""
    if isinstance(config, Section):
        return copy.deepcopy(config)
    return from_dict(config) if isinstance(config, Mapping) else load_config(str(config))


def _objects(model, task, train_data, eval_data, evaluators: Mapping[str, Any] | None) -> dict[str, Any]:
    """The objects that are given, by the names that stand for them in the config."""
    objects = {"model": model, "task": task, "train": train_data, "eval": eval_data}
    objects |= {f"evaluator_{name}": evaluator for name, evaluator in (evaluators or {}).items()}
    return {name: part for name, part in objects.items() if part is not None}


def _place(name: str) -> tuple[str, Any]:
    """The config key for a given object, and the value that names it."""
    spec = f"{parts.GIVEN}:{name}"
    if name.startswith("evaluator_"):
        return f"evals.{name.removeprefix('evaluator_')}", {"kind": spec}
    return {"model": "model.name", "task": "task", "train": "data.train", "eval": "data.eval"}[name], spec


def open_run(
    workdir: str | pathlib.Path, *, model=None, task=None, train_data=None, eval_data=None, evaluators=None
) -> "Run":
    """A finished or unfinished run; pass the objects that `train` was given, for whatever needs them."""
    run = Run(workdir, _objects(model, task, train_data, eval_data, evaluators))
    read_run_config(run.workdir)  # raises if there is no run
    return run


def evaluate(
    workdir: str | pathlib.Path, checkpoint: str | int = "last", overrides: Mapping[str, Any] | None = None, **objects
) -> dict[str, float]:
    """Runs every evaluation of a run's config, changed by `overrides`, on a checkpoint: {"NAME/METRIC": value}.

    objects: as for `open_run`.
    """
    return open_run(workdir, **objects).evaluate(checkpoint, overrides)


class Run:
    """A run in its work folder. Its data are read on each access, so that a run in progress shows how far it is."""

    def __init__(self, workdir: str | pathlib.Path, objects: Mapping[str, Any] | None = None, config=None, name=""):
        """config, name: what to train, and its name."""
        self.workdir, self._objects, self._config, self._name = local_folder(workdir), dict(objects or {}), config, name

    def __repr__(self) -> str:
        state = f"finished, {self.step} steps" if self.summary else f"at step {self.step}"
        return f"Run({str(self.workdir)!r}, {state})"

    @property
    def config(self) -> Section:
        """The run's own config, completed from the data. Raises ConfigError if there is none."""
        return read_run_config(self.workdir)

    @property
    def history(self) -> dict[str, Series]:
        """The contents of metrics.jsonl, by metric."""
        return read_history(self.workdir)

    @property
    def step(self) -> int:
        """The newest saved step; 0 if there is none."""
        return max(checkpoint_steps(self.workdir / "checkpoints"), default=0)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of a run that has ended, else {}."""
        return read_summary(self.workdir)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the model's outputs, in order; () if they have no names."""
        return outputs_of(self.workdir).names

    @property
    def model(self):
        """The module as the run trains it."""
        return self._task().model

    @property
    def variables(self) -> dict:
        """The newest checkpoint's variables for evaluation; see `load` for others."""
        return self.load()[1]

    def load(self, checkpoint: str | int = "last") -> tuple[Any, dict]:
        """(model, variables) of a checkpoint: "last", "best" or a step; like `vj.load_pretrained`."""
        from vision_jax.weights.pretrained import load_pretrained

        with parts.given(self._objects):
            return load_pretrained(self.workdir, checkpoint=checkpoint)

    def predict(self, images, checkpoint: str | int = "last", **options) -> list:
        """What the model sees in pictures: see `vj.predict`."""
        from vision_jax.predict import predict

        with parts.given(self._objects):
            return predict(self.workdir, images, checkpoint=str(checkpoint), **options)

    def evaluate(self, checkpoint: str | int = "last", overrides: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Runs every evaluation of the config on a checkpoint; {"NAME/METRIC": value}."""
        from vision_jax.training.loop import evaluate

        config = self.config
        for key, value in (overrides or {}).items():
            set_key(config, key, value)
        with parts.given(self._objects):
            return evaluate(config, self.workdir, str(checkpoint), told=False)

    def resume(self, overrides: Mapping[str, Any] | None = None, accept: Sequence[str] = (), callbacks=()) -> "Run":
        """Resumes from the newest checkpoint; with `accept=["duration"]` and a longer one, also a finished run."""
        config = self._config if self._config is not None else self.config
        for key, value in (overrides or {}).items():
            set_key(config, key, value)
        self._config = config
        return self._train(accept, callbacks)

    def plot(self, *metrics: str, over: str = "step"):
        """A matplotlib figure of metrics, by default losses and evaluation metrics: see `reports.curves.draw`."""
        from vision_jax.reports.curves import draw

        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise not_installed("run.plot", "matplotlib") from None
        figure = plt.figure(layout="constrained")  # pyplot's, which a notebook shows as the cell's value,
        plt.close(figure)  # and, once closed, not a second time
        draw(figure, [read_record(self.workdir)], metrics, over)
        return figure

    def _task(self):
        from vision_jax.tasks import make_task

        config = self.config
        with parts.given(self._objects):
            return make_task(config, learned_labels(self.workdir, config))

    def _train(self, accept: Sequence[str], callbacks: Sequence[Callable]) -> "Run":
        from vision_jax.training.loop import train

        try:
            with parts.given(self._objects):
                train(self._config, self.workdir, accept, callbacks=callbacks, embedded=True, name=self._name)
        except Stopped as stop:
            print(f"{stop}; run.resume() goes on")
        return self


@report_errors
def main() -> None:
    parser = Parser("vision-jax runs", description=OF_THE_COMMAND)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work folders, or folders of them")
    records = read_records(parser.parse_args().runs)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    try:
        print(table_of_runs(records, width), flush=True)
    except BrokenPipeError:  # for example by `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
