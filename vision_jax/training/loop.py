"""The one training loop, and evaluation alone."""

import contextlib
import dataclasses
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from vision_jax.config import to_dict
from vision_jax.data.feed import device_batches, local_rows
from vision_jax.data.pipeline import train_batches
from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.evaluation import make_evaluators, measure
from vision_jax.tasks import make_task
from vision_jax.training.announcing import closing, opening
from vision_jax.training.checkpoints import Checkpoints, read_variables
from vision_jax.training.distributed import check_shared, from_first, is_writer
from vision_jax.training.notes import notes
from vision_jax.training.origin import complete, recorded_origin
from vision_jax.training.partitioning import make_mesh, replicated
from vision_jax.training.profiling import Profiler
from vision_jax.training.reporting import Means, Reporter, is_picture
from vision_jax.training.setup import Setup, compile_step, init_variables, with_process_settings
from vision_jax.training.start import check, finished, first_state, locked, make_checkpoints
from vision_jax.training.state import TrainState
from vision_jax.training.step import COUNTERS
from vision_jax.training.stopping import StopRequest
from vision_jax.training.targets import RunInfo, open_targets
from vision_jax.training.terminal import Terminal
from vision_jax.training.throughput import Spans, peak_flops
from vision_jax.weights.work_folder import first_line, learned_labels, local_folder, locate


@with_process_settings
def train(
    config,
    workdir: str | pathlib.Path,
    accept: Sequence[str] = (),
    callbacks: Sequence[Callable[[int, dict[str, float]], Any]] = (),
    embedded: bool = False,
    verbose: bool = False,
    name: str = "",
) -> dict:
    """Trains what `config` describes in `workdir`, or resumes the run there. Returns the contents of summary.json.

    accept: changes since the run began that are intended: keys or sections of the config, "data", "restart".
    callbacks: each is called, in process 0, after every report and evaluation with its step and numbers.
    embedded: in a notebook or a program of the caller's, which must survive a signal.
    verbose: also print the whole config and the parameter groups.
    name: of the config, or its file, with its argument; for the record.
    Raises ConfigError, within seconds and before anything is written, for a run that cannot work; RunError if something
    outside the config ends it, and Stopped if a signal does, with everything saved that could be.
    """
    spans, workdir = Spans(), local_folder(workdir)
    with StopRequest(embedded) as stop, locked(workdir):
        with spans("init"):
            check_shared(workdir)
            start = check(config, workdir, accept, name)
        setup, terminal = start.setup, open_terminal(workdir)
        with jax.set_mesh(setup.mesh), contextlib.closing(make_checkpoints(setup.config, workdir)) as checkpoints:
            with spans("init"):
                state = first_state(start, workdir, checkpoints, accept, terminal)
            summary = finished(workdir, int(state.step), setup.derived["steps"]["duration"])
            if not from_first(summary is not None):
                terminal.say("\n".join([opening(start, workdir, int(state.step), verbose), *notes(start)]))
                with _reporting(setup, workdir, int(state.step), spans, callbacks, terminal) as (reporter, profiler):
                    with spans("compile"), terminal.timed("compiling the training step"):
                        step_fn = compile_step(setup)
                    Loop(setup, step_fn, state, start.evaluators, checkpoints, reporter, profiler, stop).run()
                    summary = reporter.summary({"best": checkpoints.best_so_far(), "start": start.provenance})
            if is_writer():
                terminal.say(closing(summary, workdir, setup.task, embedded))
            return summary or {}


def open_terminal(workdir: pathlib.Path) -> Terminal:
    """The run's terminal in the first process; in the others, one that shows nothing."""
    return Terminal(sys.stdout, workdir / "log.txt") if is_writer() else Terminal(None)


@contextlib.contextmanager
def _reporting(
    setup: Setup, workdir: pathlib.Path, step: int, spans: Spans, callbacks: Sequence[Callable], terminal: Terminal
) -> Iterator[tuple[Reporter, Profiler]]:
    config = setup.config
    profiler = Profiler(workdir / "profile", *(config.log.profile if is_writer() else ()))
    reporter = Reporter(
        workdir,
        targets=open_targets(config.log, RunInfo(workdir, to_dict(config), step)) if is_writer() else {},
        callbacks=callbacks,
        terminal=terminal,
        total_steps=setup.derived["steps"]["duration"],
        start_step=step,
        batch_size=config.batch_size,
        epoch_size=setup.derived["train_examples"],
        best=config.checkpoint.best,
        flops_per_step=setup.flops,
        peak_flops=peak_flops(jax.devices(), config.log.peak_tflops),
        spans=spans,
        is_writer=is_writer(),
    )
    with contextlib.closing(reporter), contextlib.closing(profiler):
        yield reporter, profiler


@dataclasses.dataclass
class Loop:
    """The steps from `state.step` to the end: step, report, evaluate, save.

    The next step is dispatched before the metrics of the last one are read, so that devices need not wait for the host.
    If a checkpoint and an evaluation are due together, the checkpoint comes first; an evaluation that an interrupted run
    missed is done when the run resumes. So metrics.jsonl ends up like that of an uninterrupted run.
    """

    setup: Setup
    step_fn: Callable
    state: TrainState
    evaluators: dict
    checkpoints: Checkpoints
    reporter: Reporter
    profiler: Profiler
    stop: StopRequest

    def __post_init__(self):
        self.spans, self.step = self.reporter.spans, int(self.state.step)
        self.total = self.setup.derived["steps"]["duration"]
        self.means = Means(**self.checkpoints.beside)
        self.unread: dict | None = None  # metrics of the last step, on the devices

    def run(self) -> None:
        """Runs to the end. Raises Stopped, RunError or ConfigError if it ends early, once the state is saved."""
        self.stop.defer()
        with self._storage_told(), self._batches() as batches:
            self.evaluate(self._missed())
            while self.step < self.total:
                self.advance(self._next(batches))
                if signal_number := self.stop.reached(self.step):
                    raise self._stopped(signal_number)
                if self._due("checkpoint.every"):
                    self.save()
                self.evaluate(self._due_evaluators())
            self.checkpoints.wait()

    def advance(self, batch: dict) -> None:
        """Dispatches a step, then reports the one before."""
        with self.spans("step"), self.profiler.step(self.step + 1), jax.transfer_guard("disallow"):
            state, metrics = self.step_fn(self.state, batch)
        del batch  # it may lie in memory shared with a worker, which is released with the last reference
        self.report()
        self.state, self.unread, self.step = state, metrics, self.step + 1

    def report(self) -> None:
        """Reads the metrics of the last step, unless that is done, and writes the means if they are due."""
        if self.unread is None:
            return
        with self.spans("step"):
            values = {name: value.item() for name, value in jax.device_get(self.unread).items()}
        self.unread = None
        self._check_health(values)
        self.means.add(values)
        self.reporter.progress(self.step, values, lambda: self._learning_rate(values["skipped"]))
        if self._due("log.every"):
            line = self._line({name: values[name] for name in COUNTERS})
            self.reporter.write(self.step, {f"train/{name}": value for name, value in line.items()})

    def evaluate(self, evaluators: dict) -> None:
        """Measures and reports; saves the state if it is the best so far."""
        if not evaluators:
            return
        self.report()
        self.reporter.terminal.live(f"evaluating at step {self.step:,} ...")
        with self._saved_whatever_ends("evaluation"), self.spans("eval"):
            measured = measure(evaluators, self.state.eval_variables)
        self.reporter.write(self.step, measured)
        if is_best := self.checkpoints.evaluated(self.step, measured):
            self.save()
        self.reporter.evaluated(self.step, measured, is_best)

    def save(self) -> None:
        """Starts writing a checkpoint of the state and the unwritten means, unless this step has one."""
        self.report()  # a run that resumes here does not repeat this step
        with self.spans("checkpoint"):
            self.checkpoints.save(self.step, self.state, self.means.kept)

    def _line(self, counters: dict[str, int]) -> dict[str, float]:
        """The training metrics written at this step: means since the last line, and this step's own values."""
        epoch = self.step * self.setup.config.batch_size / self.setup.derived["train_examples"]
        rest = {"learning_rate": self._learning_rate(counters["skipped"]), "epoch": epoch}
        return self.means.take() | counters | rest | self.reporter.timing(self.step)

    def _learning_rate(self, skipped: int) -> float:
        """The learning rate of the last step; skipped: updates skipped up to then."""
        return float(self.setup.schedule(self.step - 1 - skipped))

    def _next(self, batches: Iterator[dict]) -> dict:
        with self._saved_whatever_ends("training data"), self.spans("data"):
            return next(batches)

    @contextlib.contextmanager
    def _saved_whatever_ends(self, what: str) -> Iterator[None]:
        """Inside, a signal ends the run at once. If the run ends here, the state is saved, and the error says so."""
        try:
            with self.stop.at_once():
                yield
        except Stopped as error:
            raise self._stopped(error.number) from error
        except ConfigError as error:
            raise ConfigError(f"{error} ({self._save_last()})") from error
        except Exception as error:
            raise RunError(f"{what}: {_cause(error)}; {self._save_last()}") from error

    def _stopped(self, number: int) -> Stopped:
        """The exception that ends the run after a signal, once the state is saved."""
        self._save_last()
        after = f"after step {self.step}: saved; the same command continues" if self.step else "before the first step"
        return Stopped(number, f"stopped by {signal.Signals(number).name} {after}")

    def _save_last(self) -> str:
        """Saves the state of a run that ends here; returns a description of what is safe."""
        if not self.step:
            return "no step was done"
        self.save()
        with self.spans("checkpoint"):
            self.checkpoints.wait()
        return f"step {self.step} is saved, and the same command continues"

    @contextlib.contextmanager
    def _batches(self) -> Iterator[Iterator[dict]]:
        config, mesh = self.setup.config, self.setup.mesh
        rows = local_rows(mesh, config.batch_size)
        source, fields, reader = self.setup.source, self.setup.task.fields, self.setup.reader
        host = train_batches(
            config, seed=config.seed, start_step=self.step, rows=rows, source=source, fields=fields, reader=reader
        )
        with contextlib.closing(host), contextlib.closing(device_batches(host, mesh)) as batches:
            yield batches

    @contextlib.contextmanager
    def _storage_told(self) -> Iterator[None]:
        """A report that cannot be written ends the run just like a checkpoint that cannot."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(RunError):
                self.checkpoints.wait()  # the one being written may still succeed
            steps = self.checkpoints.steps()
            safe = f"the checkpoint of step {steps[-1]} is safe" if steps else "there is no checkpoint yet"
            raise RunError(
                f"cannot write {error.filename or 'to the work folder'} after step {self.step}: {error.strerror}; {safe}, and"
                " the same command continues once it can be written"
            ) from error

    def _due(self, key: str) -> bool:
        every = self.setup.derived["steps"][key]
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _due_evaluators(self) -> dict:
        return {name: each for name, each in self.evaluators.items() if self._due(f"evals.{name}.every")}

    def _missed(self) -> dict:
        """Evaluations due at the step that the run resumes from and not reported yet."""
        due = self._due_evaluators() if self.step else {}
        known = self.reporter.names_at(self.step)
        return {
            name: each
            for name, each in due.items()
            if from_first(not {f"{name}/{metric}" for metric in each.metrics} & known)
        }

    def _check_health(self, values: dict) -> None:
        """Stops a run that diverges or whose images cannot be decoded."""
        config, step = self.setup.config, self.step
        if values["skipped_in_row"] >= config.optimizer.max_skipped:
            raise ConfigError(
                f"stopped at step {step}: the last {values['skipped_in_row']} updates had a loss or gradient that is not finite,"
                " or no readable image (optimizer.max_skipped); lower schedule.base_lr, lengthen schedule.warmup or set optimizer.clip_norm"
            )
        seen = step * config.batch_size
        if values["broken"] > config.data.max_broken * max(seen, 1000):
            raise ConfigError(
                f"stopped at step {step}: {values['broken']} of {seen} training images could not be read, more than the share of"
                f" {config.data.max_broken} that data.max_broken allows"
            )


def _cause(error: BaseException) -> str:
    """What happened, in one line."""
    text = first_line(error)
    if "exit code -9" in text:
        return "a data worker was killed (signal 9), often by the kernel for want of memory: lower data.workers or data.prefetch"
    return text


@with_process_settings
def evaluate(config, workdir: pathlib.Path, checkpoint: str = "last", told: bool = True) -> dict[str, float]:
    """Runs every evaluator on a checkpoint ("last", "best", a step, or a folder); returns the metrics. told: print them."""
    folder = (
        locate(workdir, checkpoint) if checkpoint in ("last", "best") or checkpoint.isdecimal() else locate(checkpoint)
    )
    mesh = make_mesh(config)
    if folder.name.isdecimal():
        folder = folder.with_name(str(from_first(int(folder.name))))
    config, _ = complete(config, recorded_origin(folder.parent.parent))
    task = make_task(config, learned_labels(folder.parent.parent, config))
    evaluators = make_evaluators(task, config, mesh)
    if not evaluators:
        raise ConfigError(
            f"nothing to evaluate: set evals.NAME.every, NAME such as {', '.join((*task.evaluations, 'task'))}"
        )
    with jax.set_mesh(mesh):
        expected = jax.eval_shape(lambda: init_variables(config, task))
        measured = measure(evaluators, read_variables(folder, expected, replicated(mesh)))
    metrics = {name: value for name, value in measured.items() if not is_picture(value)}
    if told and is_writer():
        print(f"{folder}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    return metrics
