"""What happens between a config and the first step: is this a new run or a resumed one, and with what state?"""

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from vision_jax.config import base_config, to_dict
from vision_jax.data import open_source
from vision_jax.data.classes import continued, labels_of, renumbered
from vision_jax.data.fingerprints import fingerprint
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.evaluation import make_evaluators
from vision_jax.files import whole_file
from vision_jax.tasks import make_task
from vision_jax.training import continuing
from vision_jax.training.accepting import RESTART, check_accept
from vision_jax.training.checkpoints import Checkpoints
from vision_jax.training.continuing import Accepted, Earlier
from vision_jax.training.distributed import fetch, is_writer, place
from vision_jax.training.initialization import init_from, open_init_source
from vision_jax.training.lock import WriterLock
from vision_jax.training.origin import Origin, complete, read_origin
from vision_jax.training.provenance import extended, provenance
from vision_jax.training.setup import Setup, prepare
from vision_jax.training.state import TrainState
from vision_jax.training.targets import check_targets
from vision_jax.training.terminal import Terminal
from vision_jax.weights.work_folder import metric_values


class Start(NamedTuple):
    """A run that has been checked, before its state is created or read."""

    setup: Setup
    evaluators: dict
    data: dict[str, Any]  # the fingerprint of the training data, in process 0
    earlier: Earlier | None  # the run that the work folder already holds
    accepted: list[Accepted]
    origin: Origin | None  # what the source of config.init_from says about itself
    taken: dict[str, Any]  # the values that the config takes from it, by dotted key
    provenance: dict[str, Any]  # of this process, in process 0


def locked(workdir: pathlib.Path) -> contextlib.AbstractContextManager:
    """The work folder, created if needed, with this run as its only writer. Raises ConfigError if that is not possible."""
    return WriterLock(workdir) if is_writer() else contextlib.nullcontext()


def check(config, workdir: pathlib.Path, accept: Sequence[str], name: str = "") -> Start:
    """Raises ConfigError for everything that can be found wrong before a step is compiled; nothing is written."""
    check_accept(accept, config)
    earlier, accepted, task = continuing.read_earlier(workdir), [], None
    origin = earlier.origin if earlier else read_origin(config)
    config, taken = complete(config, origin)
    source = open_source(config.data.train, tfds_dir=config.data.tfds_dir)
    data = fingerprint(source) if is_writer() else {}
    if earlier:
        if is_writer():
            accepted += continuing.check_data(workdir, earlier, config, data, accept)
        known = renumbered if earlier.data else continued  # a fingerprint shows when a class is gone
        of_data, of_run = f"config.data.train={config.data.train!r}", f"the run in {workdir}"
        source = known(source, earlier.class_names, of_data, of_run)
        task = make_task(config, labels_of(source)._replace(target_names=earlier.target_names))
    setup = prepare(config, source=source, task=task)
    if earlier:
        accepted += continuing.check_keys(workdir, earlier, setup.config, accept)
    evaluators = make_evaluators(setup.task, setup.config, setup.mesh)
    check_best(setup.config, evaluators)
    check_targets(setup.config.log)
    by = provenance(setup.mesh.devices.flat, name) if is_writer() else {}
    return Start(setup, evaluators, data, earlier, accepted, origin, taken, by)


def check_best(config, evaluators: dict) -> None:
    known = [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.metrics]
    default = config.checkpoint.best == base_config().checkpoint.best  # no error if the default is not measured
    if config.checkpoint.best and config.checkpoint.best not in known and not default:
        raise ConfigError(
            f"config.checkpoint.best={config.checkpoint.best!r} is not measured{did_you_mean(config.checkpoint.best, known)}"
        )


def make_checkpoints(config, workdir: pathlib.Path) -> Checkpoints:
    c = config.checkpoint
    values = metric_values(workdir, c.best) if c.best else {}
    return Checkpoints(
        workdir / "checkpoints", keep=c.keep, best=c.best, best_mode=c.best_mode, verify=c.verify, values=values
    )


def first_state(
    start: Start, workdir: pathlib.Path, checkpoints: Checkpoints, accept: Sequence[str], terminal: Terminal
) -> TrainState:
    """The newest intact checkpoint's state, or a new one; config.json is written once there is one.

    If this fails, the work folder stays free for another try.
    """
    setup = start.setup
    if setup.config.init_from and not checkpoints.steps():
        open_init_source(setup.config.init_from, setup.task.model, setup.config.data.image_size)
    if is_writer():
        checkpoints.check_space(setup.abstract_state)
    state = checkpoints.restore(setup.abstract_state, restart=RESTART in accept)
    if state is None:
        state = initial_state(setup, terminal)
    step, total = int(state.step), setup.derived["steps"]["duration"]
    if step > total:
        raise ConfigError(
            f"the run in {workdir} is at step {step}, beyond the {total} of config.duration: take a longer one"
        )
    if is_writer():
        save_record(start, workdir, step)
        for line in told(start, step):
            terminal.say(line)
    return state


def initial_state(setup: Setup, terminal: Terminal) -> TrainState:
    """The state before the first step: newly drawn, or from another run's parameters as `config.init_from` says."""
    state = jax.jit(setup.create, out_shardings=setup.shardings)()
    if not setup.config.init_from:
        return state
    fresh = fetch(state.variables)
    task, names = setup.task, setup.task.class_names or setup.task.target_names
    variables, report = init_from(setup.config.init_from, task.model, setup.config.data.image_size, fresh, names)
    terminal.say(f"initialised from {setup.config.init_from}: {report}")
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    return state.replace(
        params=place(variables["params"], setup.shardings.params),
        collections=place(collections, setup.shardings.collections),
        ema=None if state.ema is None else place(variables, setup.shardings.ema),
    )


def save_record(start: Start, workdir: pathlib.Path, step: int) -> None:
    """Writes config.json: the config, what follows from it and the data, all changes accepted so far, and who trained."""
    setup = start.setup
    derived = setup.derived | {
        "class_names": setup.task.labels.class_names,
        "target_names": setup.task.labels.target_names,
        "activation": setup.task.activation,
        "origin": start.origin and start.origin._asdict(),
        "data": start.data,
    }
    new = [{"key": key, "was": was, "is": now, "step": step} for key, was, now in start.accepted]
    accepted = [*(start.earlier.accepted if start.earlier else ()), *new]
    starts = start.earlier.starts if start.earlier else ()
    if step < derived["steps"]["duration"] or not starts:
        starts = extended(starts, {"step": step} | start.provenance)
    record = to_dict(setup.config) | {"derived": derived, "accepted": accepted, "starts": starts}
    with whole_file(workdir / "config.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def told(start: Start, step: int) -> list[str]:
    """Lines about a resumed run: what has changed since before, and what follows from it."""
    if start.earlier is None:
        return []
    setup, lines = start.setup, continuing.said(start.earlier, start.setup.config)
    for key, was, now in start.accepted:
        lines.append(f"accepted from step {step} on: {key}: was {was!r}, is {now!r}")
    if any(change.key in ("duration", "batch_size") or change.key.startswith("schedule") for change in start.accepted):
        rates = [float(setup.schedule(at)) for at in (step, max(setup.derived["steps"]["duration"] - 1, 0))]
        lines.append(
            f"the schedule now: learning rate {rates[0]:.4g} at step {step}, {rates[1]:.4g} at the last, step"
            f" {setup.derived['steps']['duration']}"
        )
    return lines


def finished(workdir: pathlib.Path, step: int, total: int) -> dict[str, Any] | None:
    """summary.json of a run that has done all its steps, None for any other."""
    summary = workdir / "summary.json"
    if step < total or not summary.exists():
        return None
    values = json.loads(summary.read_text())
    return values if values.get("step") == total else None
