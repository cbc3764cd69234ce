"""The one training loop, and evaluation alone."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax

from vision_jax.data import open_source
from vision_jax.data.classes import Classes
from vision_jax.data.feed import device_batches, local_rows
from vision_jax.data.pipeline import train_batches
from vision_jax.errors import ConfigError, RunError, Stopped
from vision_jax.evaluation import make_evaluators, measure
from vision_jax.models.stacking import path_name
from vision_jax.tasks import make_task
from vision_jax.training.checkpoints import Checkpoints, check_structure
from vision_jax.training.distributed import check_shared, from_first, is_writer
from vision_jax.training.partitioning import make_mesh, replicated
from vision_jax.training.profiling import Profiler
from vision_jax.training.reporting import Reporter, is_picture
from vision_jax.training.setup import Setup, compile_step, init_variables, with_process_settings
from vision_jax.training.start import check, describe, finished, first_state, locked, make_checkpoints
from vision_jax.training.state import TrainState
from vision_jax.training.stopping import StopRequest
from vision_jax.training.throughput import Spans, peak_flops
from vision_jax.weights.work_folder import class_names, first_line, load_variables, local_folder, locate


@with_process_settings
def train(config, workdir: str | pathlib.Path, accept: Sequence[str] = ()) -> dict:
    """Trains what `config` describes in `workdir`, or goes on with the run there. Returns what summary.json holds.

    accept: changes since the run began that are wanted: keys or sections of the config, "data", "restart".
    Raises ConfigError, within seconds and before anything is written, for what cannot run; RunError where something
    outside the config ends it, and Stopped where a signal does, with everything saved that could be.
    """
    spans, workdir = Spans(), local_folder(workdir)
    with StopRequest() as stop, locked(workdir):
        with spans("init"):
            check_shared(workdir)
            start = check(config, workdir, accept)
        setup, total = start.setup, start.setup.derived["steps"]["duration"]
        if is_writer():
            print(describe(setup), flush=True)
        with jax.set_mesh(setup.mesh), contextlib.closing(make_checkpoints(setup.config, workdir)) as checkpoints:
            with spans("init"):
                state = first_state(start, workdir, checkpoints, accept)
            done = finished(workdir, int(state.step), total)
            if from_first(done is not None):
                if is_writer():
                    print(f"the run in {workdir} is complete: {total} steps")
                return done or {}
            with spans("compile"):
                step_fn = compile_step(setup)
            with _reporting(setup, workdir, int(state.step), spans) as (reporter, profiler):
                Loop(setup, step_fn, state, start.evaluators, checkpoints, reporter, profiler, stop).run()
                return reporter.summary()


@contextlib.contextmanager
def _reporting(setup: Setup, workdir: pathlib.Path, step: int, spans: Spans) -> Iterator[tuple[Reporter, Profiler]]:
    config = setup.config
    profiler = Profiler(workdir / "profile", *(config.log.profile if is_writer() else ()))
    reporter = Reporter(
        workdir,
        total_steps=setup.derived["steps"]["duration"],
        start_step=step,
        batch_size=config.batch_size,
        tensorboard=config.log.tensorboard,
        flops_per_step=setup.flops,
        peak_flops=peak_flops(jax.devices(), config.log.peak_tflops),
        spans=spans,
        is_writer=is_writer(),
    )
    with contextlib.closing(reporter), contextlib.closing(profiler):
        yield reporter, profiler


class Loop:
    """The steps from `state.step` to the end: step, report, save, evaluate.

    The next step is dispatched before the metrics of the last one are read, so that devices need not wait for the host.
    Where a checkpoint and an evaluation are due together, the checkpoint comes first; an evaluation that a run has missed,
    since it ended in it, is made when it goes on. So metrics.jsonl becomes that of a run never interrupted.
    """

    def __init__(
        self,
        setup: Setup,
        step_fn: Callable,
        state: TrainState,
        evaluators: dict,
        checkpoints: Checkpoints,
        reporter: Reporter,
        profiler: Profiler,
        stop: StopRequest,
    ):
        self.setup, self.step_fn, self.state, self.evaluators = setup, step_fn, state, evaluators
        self.checkpoints, self.reporter, self.profiler, self.stop = checkpoints, reporter, profiler, stop
        self.spans, self.step = reporter.spans, int(state.step)
        self.total = setup.derived["steps"]["duration"]
        self.unread: dict | None = None  # metrics of the last step, on the devices

    def run(self) -> None:
        """Raises Stopped, RunError or ConfigError where it ends early, once the state is saved."""
        self.stop.defer()
        with self._storage_told(), self._batches() as batches:
            self.evaluate(self._missed())
            while self.step < self.total:
                self.advance(self._next(batches))
                signal, evaluators = self.stop.reached(self.step), self._due_evaluators()
                saves = self._due("checkpoint.every") or signal
                if saves or evaluators:
                    self.report()  # now, since a run that goes on from here does not repeat this step
                if saves:
                    self.save()
                if signal:
                    raise self._after_saving(Stopped(signal))
                self.evaluate(evaluators)
            self.checkpoints.wait()

    def advance(self, batch: dict) -> None:
        """Dispatches a step, then reads the metrics of the one before."""
        with self.spans("step"), self.profiler.step(self.step + 1), jax.transfer_guard("disallow"):
            state, metrics = self.step_fn(self.state, batch)
        del batch  # it may lie in memory shared with a worker, which is given back once nothing refers to it
        self.report()
        self.state, self.unread, self.step = state, metrics, self.step + 1

    def report(self) -> None:
        """Reads and writes the metrics of the last step, unless that is done."""
        if self.unread is None:
            return
        with self.spans("step"):
            values = {name: value.item() for name, value in jax.device_get(self.unread).items()}
        self.unread = None
        self._check_health(values)
        self.reporter.progress(self.step, values["loss"])
        if self._due("log.every"):
            done = self.step - 1 - values["skipped"]  # updates really made before this one
            values["learning_rate"] = float(self.setup.schedule(done))
            self.reporter.write(self.step, {f"train/{name}": value for name, value in values.items()})

    def save(self) -> None:
        """Starts writing a checkpoint of the state, unless there is one of this step."""
        with self.spans("checkpoint"):
            self.checkpoints.save(self.step, self.state)

    def evaluate(self, evaluators: dict) -> None:
        """Measures and reports; what is best so far is saved."""
        if not evaluators:
            return
        try:
            with self.spans("eval"), self.stop.at_once():
                measured = measure(evaluators, self.state.eval_variables)
        except (Exception, Stopped) as error:
            raise self._after_saving(error, "evaluation") from error
        self.reporter.write(self.step, measured)
        if self.checkpoints.evaluated(self.step, measured):
            self.save()

    def _next(self, batches: Iterator[dict]) -> dict:
        try:
            with self.spans("data"), self.stop.at_once():
                return next(batches)
        except (Exception, Stopped) as error:
            raise self._after_saving(error, "training data") from error

    def _after_saving(self, error: BaseException, where: str = "") -> BaseException:
        """Saves the state; returns what to raise instead of `error`, with what is safe in its message."""
        self.report()
        if self.step:
            self.save()
            with self.spans("checkpoint"):
                self.checkpoints.wait()
        safe = f"step {self.step} is saved, and the same command continues" if self.step else "no step was done"
        if isinstance(error, Stopped):
            after = (
                f"after step {self.step}: saved; the same command continues" if self.step else "before the first step"
            )
            return Stopped(error.number, f"stopped by {error.number.name} {after}")
        if isinstance(error, ConfigError):
            return ConfigError(f"{error} ({safe})")
        return RunError(f"{where}: {_cause(error)}; {safe}")

    @contextlib.contextmanager
    def _batches(self) -> Iterator[Iterator[dict]]:
        config, mesh = self.setup.config, self.setup.mesh
        rows = local_rows(mesh, config.batch_size)
        host = train_batches(config, seed=config.seed, start_step=self.step, rows=rows, source=self.setup.source)
        with contextlib.closing(host), contextlib.closing(device_batches(host, mesh)) as batches:
            yield batches

    @contextlib.contextmanager
    def _storage_told(self) -> Iterator[None]:
        """A report that cannot be written ends the run as a checkpoint that cannot does."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(RunError):
                self.checkpoints.wait()  # the one that is being written may still end well
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
        """Evaluations due at the step that the run goes on from, which are not reported yet."""
        due = self._due_evaluators() if self.step else {}
        known = self.reporter.names_at(self.step)
        return {
            name: each
            for name, each in due.items()
            if from_first(not {f"eval/{metric}" for metric in each.metrics} & known)
        }

    def _check_health(self, values: dict) -> None:
        """Stops a run that diverges or whose images do not decode."""
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
def evaluate(config, workdir: pathlib.Path, checkpoint: str = "last") -> dict[str, float]:
    """Runs every evaluator on a checkpoint ("last", "best", a step, or a folder); prints and returns the metrics."""
    folder = (
        locate(workdir, checkpoint) if checkpoint in ("last", "best") or checkpoint.isdecimal() else locate(checkpoint)
    )
    mesh = make_mesh(config)
    if folder.name.isdecimal():
        folder = folder.with_name(str(from_first(int(folder.name))))
    names = class_names(folder.parent.parent)  # of the run's training data; without them data.eval has the same classes
    known = Classes(len(names), names) if names else open_source(config.data.eval, tfds_dir=config.data.tfds_dir)
    task = make_task(config, known)
    evaluators = make_evaluators(task, config, mesh)
    if not evaluators:
        keys = ", ".join(f"evals.{name}.every" for name in task.evaluators(config))
        raise ConfigError(f"nothing to evaluate: set one of {keys}")
    with jax.set_mesh(mesh):
        variables = load_variables(folder, replicated(mesh))
        saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
        check_structure(str(folder), saved, jax.eval_shape(lambda: init_variables(config, task)))
        measured = measure(evaluators, variables)
    metrics = {name: value for name, value in measured.items() if not is_picture(value)}
    if is_writer():
        print(f"{folder}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    return metrics
