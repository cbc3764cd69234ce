"""What a run prints at its start and at its end, in a few lines each."""

import json
import math
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vision_jax.config import to_dict, typed_leaves
from vision_jax.training.group_table import format_groups
from vision_jax.training.param_groups import param_groups
from vision_jax.training.reporting import is_told
from vision_jax.training.setup import Setup
from vision_jax.training.start import Start
from vision_jax.training.terminal import duration, number
from vision_jax.values import shown

WIDTH, MOST, MOST_TAKEN = 100, 8, 5  # columns, lines of changed keys, and lines of keys taken from init_from
_LABEL = 11  # columns
_DOING = {
    "init": "starting",
    "compile": "compiling",
    "data": "waiting for data",
    "step": "training",
    "eval": "evaluating",
    "checkpoint": "saving",
}
_SHOWN_ELSEWHERE = ("data.train", "data.eval", "batch_size", "duration", "init_from", "task")


def opening(start: Start, workdir: pathlib.Path, step: int, verbose: bool = False) -> str:
    """What trains on what, for how long, on which devices, what its config changes, and where everything goes.

    step: the one that the run resumes from. verbose: also print the whole config first, and each parameter's group.
    """
    setup = start.setup
    config, derived, source = setup.config, setup.derived, setup.source
    count, trained = _parameters(setup)
    frozen = "" if trained == count else f", {trained:,} of them trained"
    classes = f" of {source.num_classes} classes" if source.num_classes else ""
    epochs = derived["steps"]["duration"] * config.batch_size / derived["train_examples"]
    devices = setup.mesh.devices
    mesh = " x ".join(f"{size} {axis}" for axis, size in setup.mesh.shape.items() if size > 1)
    rows = [
        ("model", f"{type(setup.task.model).__name__}, {count:,} parameters{frozen}; task {config.task}"),
        ("data", f"{_text(config.data.train)}, {len(source):,} examples{classes}"),
        ("evaluation", _evaluation(config, start.evaluators)),
        ("training", f"{derived['steps']['duration']:,} steps of {config.batch_size}, {epochs:.3g} epochs"),
        ("devices", f"{devices.size} x {devices.flat[0].device_kind}" + (f", mesh {mesh}" if mesh else "")),
        ("start from", config.init_from),
        ("from there", _listed([f"{key}={_text(value)}" for key, value in start.taken.items()], MOST_TAKEN)),
        ("changed", _changed(config, start.taken)),
        ("work folder", str(workdir)),
        ("continuing", f"from step {step:,}" if step else ""),
    ]
    lines = [_everything(setup), ""] if verbose else []
    return "\n".join([*lines, *(_row(label, text) for label, text in rows if text)])


def _evaluation(config, evaluators: Mapping[str, Any]) -> str:
    """The evaluations and their sources."""
    by_source: dict[str, list[str]] = {}
    for name in evaluators:
        by_source.setdefault(_text(config.evals[name].source or config.data.eval), []).append(name)
    return "; ".join(f"{', '.join(names)} on {source}" for source, names in by_source.items()) or "none"


def _everything(setup: Setup) -> str:
    config = json.dumps(to_dict(setup.config) | {"derived": setup.derived}, indent=2)
    return f"{config}\n\n{format_groups(param_groups(setup.config, setup.abstract_state.params))}"


def closing(summary: Mapping[str, Any], workdir: pathlib.Path, task, embedded: bool) -> str:
    """The results of a run and, unless it is embedded in a program, what to type next."""
    seconds = summary.get("seconds", {})
    whole = summary.get("wall_seconds") or math.inf
    spent = [
        f"{doing} {duration(seconds[name])}" for name, doing in _DOING.items() if seconds.get(name, 0) > whole / 50
    ]
    took = f" in {duration(whole)} ({', '.join(spent)})" if spent else ""
    last = [f"{name} {number(value)}" for name, value in summary.items() if _is_metric(name, value)]
    rows = [
        ("finished", f"{summary['step']:,} steps{took}"),
        ("best", _best(summary.get("best"))),
        ("last", ", ".join(last)),
        ("work folder", str(workdir)),
        ("next", "" if embedded else _next(workdir, task, bool(summary.get("best")))),
    ]
    return "\n".join(_row(label, text) for label, text in rows if text)


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}  {text}"


def _parameters(setup: Setup) -> tuple[int, int]:
    """The number of parameters, and how many of them train."""
    sizes = jax.tree.map(lambda leaf: leaf.size, setup.abstract_state.params)
    trained = jax.tree.map(lambda size, trains: size * trains, sizes, setup.trains)
    return sum(jax.tree.leaves(sizes)), sum(jax.tree.leaves(trained))


def _changed(config, taken: Mapping[str, Any]) -> str:
    """The keys of the config that are neither at their defaults nor `taken` from the source of init_from."""
    changed = [
        f"{key}={_text(value)}"
        for key, value, entry in typed_leaves(config)
        if key not in (*_SHOWN_ELSEWHERE, *taken) and (entry is None or value != entry.default)
    ]
    return _listed(changed, MOST)


def _listed(words: Sequence[str], most: int) -> str:
    """The words in at most `most` lines."""
    lines = _filled(words, WIDTH - _LABEL - 2)
    if len(lines) > most:
        rest = sum(len(line) for line in lines[most - 1 :])
        lines = [*lines[: most - 1], [f"... {rest} more in config.json"]]
    return ("\n" + " " * (_LABEL + 2)).join("  ".join(line) for line in lines)


def _filled(words: Sequence[str], width: int) -> list[list[str]]:
    """Lines with as many words as fit, separated by two spaces."""
    lines: list[list[str]] = []
    for word in words:
        if lines and len("  ".join([*lines[-1], word])) <= width:
            lines[-1].append(word)
        else:
            lines.append([word])
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value and not value.isspace() else shown(value)


def _best(best: Mapping[str, Any] | None) -> str:
    return f"{best['metric']} {number(best['value'])} at step {best['step']:,}, kept as a checkpoint" if best else ""


def _is_metric(name: str, value: Any) -> bool:
    return "/" in name and is_told(name) and (value is None or isinstance(value, int | float))


def _next(workdir: pathlib.Path, task, has_best: bool) -> str:
    checkpoint = " --checkpoint=best" if has_best else ""
    folder = shlex.quote(str(workdir))
    if "reconstruction" in task.evaluations:
        return f"{_command('visualize')} --workdir={folder}{checkpoint}"
    return f"{_command('predict')} --model={folder}{checkpoint} PICTURES..."


def _command(name: str) -> str:
    """How to run a command of the package in the way this process was started: by `vision-jax` or by Python."""
    started = pathlib.Path(sys.argv[0])
    if started.name == "vision-jax":
        return f"{_typed(sys.argv[0])} {name}"
    return f"{_typed(sys.executable)} -m vision_jax.{name}"


def _typed(program: str) -> str:
    """What to type for a program: its name if the shell finds it, else its path."""
    for name in (os.path.basename(program), "python"):
        if os.path.abspath(shutil.which(name) or "") == os.path.abspath(program):
            return name
    folder = os.getcwd() + os.sep
    return shlex.quote(program.removeprefix(folder))
