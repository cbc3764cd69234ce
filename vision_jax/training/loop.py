"""The one training loop, and evaluation alone."""

import contextlib
import json
import pathlib
import signal

import jax

from vision_jax.config import differences, nearest, to_dict
from vision_jax.data import open_source
from vision_jax.data.feed import device_batches, local_rows
from vision_jax.data.pipeline import train_batches
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluators, measure
from vision_jax.models.stacking import path_name
from vision_jax.tasks import make_task
from vision_jax.training.checkpoints import Checkpoints, check_structure
from vision_jax.training.distributed import check_shared, fetch, from_first, is_writer, place, reached_stop
from vision_jax.training.group_table import format_groups
from vision_jax.training.initialization import init_from, open_init_source
from vision_jax.training.param_groups import param_groups
from vision_jax.training.partitioning import make_mesh, replicated
from vision_jax.training.profiling import Profiler
from vision_jax.training.reporting import Reporter, is_picture, write_atomically
from vision_jax.training.setup import Setup, compile_step, init_variables, prepare, with_process_settings
from vision_jax.training.state import TrainState
from vision_jax.training.throughput import Spans, peak_flops
from vision_jax.weights.work_folder import load_variables, locate, read_run_config


@with_process_settings
def train(config, workdir: pathlib.Path) -> dict:
    """Trains what `config` describes in `workdir`, on from its newest whole checkpoint. Returns what summary.json holds.

    Raises ConfigError, within seconds and before anything is written, for what cannot run.
    """
    spans = Spans()
    with spans("init"):
        setup = prepare(config)
        config = setup.config
        evaluators = make_evaluators(setup.task, config, setup.mesh)
        check_best(config, evaluators)
        if config.init_from:
            open_init_source(config.init_from, setup.task.model, config.data.image_size)
        check_workdir(config, workdir)
    if is_writer():
        print(describe(setup), flush=True)
    with jax.set_mesh(setup.mesh), contextlib.closing(make_checkpoints(config, workdir)) as checkpoints:
        with spans("init"):
            state = checkpoints.restore(setup.abstract_state) or initial_state(setup)
            save_config(setup, workdir)
        start, total = int(state.step), setup.derived["steps"]["duration"]
        summary = workdir / "summary.json"
        if from_first(start == total and summary.exists()):
            if is_writer():
                print(f"the run in {workdir} is complete: {total} steps")
            return json.loads(summary.read_text())
        with spans("compile"):
            step_fn = compile_step(setup)
        reporter = Reporter(
            workdir,
            total_steps=total,
            start_step=start,
            batch_size=config.batch_size,
            tensorboard=config.log.tensorboard,
            flops_per_step=setup.flops,
            peak_flops=peak_flops(jax.devices(), config.log.peak_tflops),
            spans=spans,
            is_writer=is_writer(),
        )
        profiler = Profiler(workdir / "profile", *(config.log.profile if is_writer() else ()))
        with contextlib.closing(reporter), contextlib.closing(profiler), StopSignal() as stop:
            run(setup, step_fn, state, evaluators, checkpoints, reporter, profiler, stop)
            return reporter.summary()


def run(
    setup: Setup, step_fn, state: TrainState, evaluators: dict, checkpoints, reporter: Reporter, profiler, stop
) -> None:
    """The steps from `state.step` to the end; where `stop` asks for it, saves and exits with status 0.

    The next step is dispatched before the metrics of the last one are read, so that devices need not wait for the host.
    """
    config, steps, spans = setup.config, setup.derived["steps"], reporter.spans
    total, start = steps["duration"], int(state.step)

    def due(key: str, step: int) -> bool:
        return step == total or (steps[key] > 0 and step % steps[key] == 0)

    def report(step: int, metrics) -> None:
        with spans("step"):
            values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        check_health(config, step, values)
        reporter.progress(step, values["loss"])
        if due("log.every", step):
            values["learning_rate"] = float(setup.schedule(step - 1 - values["skipped"]))  # of the updates really made
            reporter.write(step, {f"train/{name}": value for name, value in values.items()})

    host = train_batches(
        config,
        seed=config.seed,
        start_step=start,
        rows=local_rows(setup.mesh, config.batch_size),
    )
    with contextlib.closing(host), contextlib.closing(device_batches(host, setup.mesh)) as batches:
        unread = None
        for step in range(start + 1, total + 1):
            with spans("data"):
                batch = next(batches)
            with spans("step"), profiler.step(step), jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, batch)
            del batch  # it may lie in memory shared with a worker, which is given back once nothing refers to it
            if unread:
                report(*unread)
            unread = (step, metrics)
            stopped = stop.reached(step)
            to_run = {name: evaluator for name, evaluator in evaluators.items() if due(f"evals.{name}.every", step)}
            if to_run or due("checkpoint.every", step) or stopped:
                report(*unread)  # now, since a run continued from the checkpoint does not repeat this step
                unread = None
            evaluated = {}
            if to_run:
                with spans("eval"):
                    measured = measure(to_run, state.eval_variables)
                reporter.write(step, measured)
                evaluated = {name: value for name, value in measured.items() if not is_picture(value)}
            if due("checkpoint.every", step) or stopped or checkpoints.improves(evaluated):
                with spans("checkpoint"):
                    checkpoints.save(step, state, evaluated)
            if stopped and step < total:
                with spans("checkpoint"):
                    checkpoints.wait()
                reporter.note(f"stopped by {stopped} after step {step}: saved; the same command continues")
                raise SystemExit(0)
        with spans("checkpoint"):
            checkpoints.wait()


@with_process_settings
def evaluate(config, workdir: pathlib.Path, checkpoint: str = "last") -> dict[str, float]:
    """Runs every evaluator on a checkpoint ("last", "best", a step, or a folder); prints and returns the metrics."""
    folder = (
        locate(workdir, checkpoint) if checkpoint in ("last", "best") or checkpoint.isdigit() else locate(checkpoint)
    )
    mesh = make_mesh(config)
    if folder.name.isdigit():
        folder = folder.with_name(str(from_first(int(folder.name))))
    task = make_task(config, open_source(config.data.eval, tfds_dir=config.data.tfds_dir))
    evaluators = make_evaluators(task, config, mesh)
    if not evaluators:
        names = ", ".join(f"evals.{name}.every" for name in task.evaluators(config))
        raise ConfigError(f"nothing to evaluate: set one of {names}")
    with jax.set_mesh(mesh):
        variables = load_variables(folder, replicated(mesh))
        saved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
        check_structure(str(folder), saved, jax.eval_shape(lambda: init_variables(config, task)))
        measured = measure(evaluators, variables)
    metrics = {name: value for name, value in measured.items() if not is_picture(value)}
    if is_writer():
        print(f"{folder}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    return metrics


def initial_state(setup: Setup) -> TrainState:
    """The state before the first step: newly drawn, or from another run's parameters as `config.init_from` says."""
    state = jax.jit(setup.create, out_shardings=setup.shardings)()
    if not setup.config.init_from:
        return state
    fresh = fetch(state.variables)
    variables, report = init_from(setup.config.init_from, setup.task.model, setup.config.data.image_size, fresh)
    if is_writer():
        print(f"initialised from {setup.config.init_from}:\n{report}", flush=True)
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    return state.replace(
        params=place(variables["params"], setup.shardings.params),
        collections=place(collections, setup.shardings.collections),
        ema=None if state.ema is None else place(variables, setup.shardings.ema),
    )


def check_health(config, step: int, values) -> None:
    """Stops a run that diverges or whose images do not decode."""
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


def check_best(config, evaluators: dict) -> None:
    known = [f"eval/{metric}" for evaluator in evaluators.values() for metric in evaluator.metrics]
    if config.checkpoint.best and evaluators and config.checkpoint.best not in known:
        raise ConfigError(
            f"config.checkpoint.best={config.checkpoint.best!r} is not measured{nearest(config.checkpoint.best, known)}"
        )


def check_workdir(config, workdir: pathlib.Path) -> None:
    """Makes the work folder; raises ConfigError where it cannot be written or holds another experiment's run."""
    if (workdir / "config.json").is_file() and (changed := differences(read_run_config(workdir), config)):
        raise ConfigError(
            f"{workdir} holds a run with another config ({'; '.join(changed[:3])}): take another --workdir,"
            " or start from this run's parameters with --config.init_from"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write the work folder {workdir}: {error.strerror}") from error
    check_shared(workdir)


def save_config(setup: Setup, workdir: pathlib.Path) -> None:
    """Writes config.json, once the run can start: what failed before leaves the work folder free for another try."""
    if is_writer():
        derived = setup.derived | {"class_names": setup.class_names}
        text = json.dumps(to_dict(setup.config) | {"derived": derived}, indent=2) + "\n"
        write_atomically(workdir / "config.json", text.encode())


def make_checkpoints(config, workdir: pathlib.Path) -> Checkpoints:
    c = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep=c.keep, best=c.best, best_mode=c.best_mode, verify=c.verify)


def describe(setup: Setup) -> str:
    """The resolved config, the mesh and which group every parameter fell in, for people."""
    config = json.dumps(to_dict(setup.config) | {"derived": setup.derived}, indent=2)
    groups = format_groups(param_groups(setup.config, setup.abstract_state.params))
    mesh = " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    return f"{config}\n\n{groups}\n\n{len(setup.mesh.devices.flat)} {jax.devices()[0].device_kind} device(s): {mesh}"


class StopSignal:
    """While open, SIGTERM and Ctrl-C only ask the run to stop: `requested` is then the signal's name. A second one ends it.

    Where there are several processes, JAX itself hears SIGTERM, and Ctrl-C is made one.
    """

    def __init__(self):
        self.requested = ""
        self.previous: dict = {}

    def __enter__(self) -> "StopSignal":
        handlers: dict = {signal.SIGTERM: self.ask, signal.SIGINT: self.ask}
        if jax.process_count() > 1:
            handlers = {signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}
        with contextlib.suppress(ValueError):  # not in the main thread: the caller's own handlers stay
            self.previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def reached(self, step: int) -> str:
        """The signal's name if all processes are to stop after this step, else empty; to be asked at every step."""
        return self.requested if jax.process_count() == 1 else "SIGTERM" * reached_stop(step)

    def ask(self, number: int, _) -> None:
        self.requested = signal.Signals(number).name
        self.__exit__()

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
