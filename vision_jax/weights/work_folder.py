"""The work folder of a run as a source of weights: its config and the variables of its checkpoints.

jax is imported only to read arrays: what a folder is, and what it lacks, is reported before that.
"""

import contextlib
import functools
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from vision_jax.config import Section, from_dict
from vision_jax.data.classes import Labels, labels_of
from vision_jax.errors import ConfigError
from vision_jax.files import nearest_path, printable, read_object, user_path

RECORD_ONLY = ("derived", "accepted", "starts")  # entries of config.json that are no keys of the config
# Prefixes of metrics in work folders from before evaluations had names of their own.
_BEGAN = {
    "eval/knn_": "knn/",
    "eval/probe_": "linear_probe/",
    "eval/zero_shot_": "zero_shot/",
    "eval/retrieval_": "retrieval/",
    "eval/psnr": "reconstruction/psnr",
    "eval/": "classification/",
}


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read back as it was written."""


def is_work_folder(path: pathlib.Path) -> bool:
    """Whether `path` is a work folder, its `checkpoints` or a checkpoint in it, judging by names alone."""
    is_run = (path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file()
    return is_run or (path / "state").is_dir() or path.name == "checkpoints"


def local_folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """The full path of a work folder that a user names. Raises ConfigError if it is not in a file system, as gs://..."""
    if re.match(r"[a-zA-Z][\w+.-]+:/", str(workdir)):  # pathlib keeps one slash of "://"
        raise ConfigError(
            f"{printable(workdir)}: the work folder must be on a mounted file system; copy it to storage of this kind after the"
            " run, or mount that as a folder"
        )
    return user_path(workdir).absolute()


class Outputs(NamedTuple):
    """What a model's outputs are: their names, () if unknown, and how to turn them into answers.

    The answers are class probabilities that sum to 1 ("softmax") or are independent ("sigmoid"), with one right class if
    `exclusive`; or numbers ("identity"), after scaling by `std` and adding `mean`.
    """

    names: tuple[str, ...] = ()
    activation: str = "softmax"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    exclusive: bool = True


def outputs_of(workdir: pathlib.Path) -> Outputs:
    """The outputs of a run's model. Raises ConfigError if its config.json cannot be read or its activation is invalid."""
    classes, targets = (_names(workdir, key) for key in ("class_names", "target_names"))
    activation, config = read_run_record(workdir)["derived"].get("activation", "softmax"), read_run_config(workdir)
    loss = config.loss
    if activation == "identity":
        return Outputs(targets, activation, loss.get("mean", (0.0,)), loss.get("std", (1.0,)))
    if activation not in ("softmax", "sigmoid"):
        raise ConfigError(f"{workdir / 'config.json'}: derived.activation must be softmax, sigmoid or identity")
    if activation == "sigmoid":
        return Outputs(classes or targets, activation, exclusive=False)
    # Trained with a binary decision per class, although just one class is right.
    is_binary = config.task == "classification" and loss.get("name") == "sigmoid"
    return Outputs(classes, "sigmoid" if is_binary else activation)


def learned_labels(workdir: pathlib.Path, config) -> Labels:
    """The labels of a run's training data, as recorded; without a record, those of its evaluation data."""
    names, targets = (_names(workdir, key) for key in ("class_names", "target_names"))
    if names or targets or not config.data.eval:
        return Labels(len(names), names, targets)
    from vision_jax.data import open_source

    return labels_of(open_source(config.data.eval, tfds_dir=config.data.tfds_dir))


def _names(workdir: pathlib.Path, key: str) -> tuple[str, ...]:
    if not (workdir / "config.json").exists():
        return ()
    names = read_run_record(workdir)["derived"].get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{workdir / 'config.json'}: derived.{key} must be a list of names")
    return tuple(names)


def read_run_config(workdir: pathlib.Path) -> Section:
    """The resolved config that a run saved in its work folder. Raises ConfigError."""
    record = read_run_record(workdir)
    try:
        config = from_dict({key: value for key, value in record.items() if key not in RECORD_ONLY})
        config.checkpoint.best = _metric_now(config.checkpoint.best)
        return config
    except ConfigError as error:
        raise ConfigError(f"{workdir / 'config.json'}: {printable(error, 1000)}") from error
    except Exception as error:  # such as a number too large for a float, or endless nesting
        raise ConfigError(f"{workdir / 'config.json'} is no config of a run ({first_line(error)})") from error


def read_run_record(workdir: pathlib.Path) -> dict[str, Any]:
    """config.json of a work folder: the config's keys, "derived" values, "accepted" changes, and the run's "starts".

    Raises ConfigError.
    """
    path = workdir / "config.json"
    if not path.exists():
        if not workdir.exists():
            raise ConfigError(f"there is no folder {workdir}, where a run should be{nearest_path(workdir)}")
        raise ConfigError(f"no config.json in {workdir}: it is not the work folder of a run; give --config=FILE")
    values = read_object(path, str(path))
    record = {"derived": {}, "accepted": [], "starts": [], **values}
    lists = [record[name] for name in ("accepted", "starts")]
    entries = [entry for each in lists for entry in (each if isinstance(each, list) else [None])]
    if not all(isinstance(part, dict) for part in (record["derived"], *entries)):
        raise ConfigError(f"{path}: 'derived' must be an object, 'accepted' and 'starts' lists of objects")
    return record


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending; [] if there is no such folder."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name[:12])))


def metric_rows(workdir: pathlib.Path) -> list[dict]:
    """The complete lines of metrics.jsonl as objects with a "step"; a line cut off by a kill is skipped."""
    path, rows = workdir / "metrics.jsonl", []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append({_metric_now(name): value for name, value in row.items()})
    return rows


def _metric_now(name: str) -> str:
    """Today's name of a metric that an earlier version may have written."""
    was = next((beginning for beginning in _BEGAN if name.startswith(beginning)), "")
    return _BEGAN.get(was, "") + name.removeprefix(was)


def metric_values(workdir: pathlib.Path, metric: str) -> dict[int, float]:
    """{step: value} of a metric, from metrics.jsonl, wherever it is finite."""
    return {row["step"]: row[metric] for row in metric_rows(workdir) if isinstance(row.get(metric), int | float)}


def locate(source: str | pathlib.Path, which: str = "last") -> pathlib.Path:
    """The folder of one checkpoint: `source` is a work folder, its `checkpoints`, or a checkpoint itself.

    `which` is "last", "best" (by the run's `checkpoint.best` in metrics.jsonl) or a step, and is ignored if `source` is a
    checkpoint itself. Raises ConfigError naming what is missing.
    """
    source = user_path(source).absolute()
    if not source.exists():
        raise ConfigError(f"no work folder or checkpoint at {source}{nearest_path(source)}")
    if (source / "state").is_dir():
        return source
    folder = source / "checkpoints" if (source / "checkpoints").is_dir() else source
    steps = checkpoint_steps(folder)
    if not steps:
        raise ConfigError(f"{source} holds no checkpoint yet: a run saves them to checkpoints/STEP")
    if which == "last":
        step = steps[-1]
    elif which == "best":
        step = _best_step(folder, steps)
    elif which.isdecimal() and int(which) in steps:
        step = int(which)
    else:
        known = f"there are best, last, {', '.join(map(str, steps))}"
        raise ConfigError(f"no checkpoint {which!r} in {folder}: {known}")
    return folder / str(step)


def _best_step(folder: pathlib.Path, steps: list[int]) -> int:
    run = read_run_config(folder.parent).checkpoint
    values = metric_values(folder.parent, run.best) if run.best else {}
    known = [step for step in steps if step in values]
    if not known:
        raise ConfigError(f"no checkpoint in {folder} was evaluated by {run.best or 'a metric'}: use last, or a step")
    return (max if run.best_mode == "max" else min)(known, key=values.__getitem__)


def load_variables(checkpoint: pathlib.Path, sharding=None) -> dict:
    """The variables that evaluation uses (the average if there is one) from any checkpoint.

    Full arrays, placed by `sharding` (default: this process's first device). Optimizer state is not read. Raises
    ConfigError if the checkpoint is damaged.
    """
    import jax
    from orbax.checkpoint import v1 as ocp

    device = jax.local_devices()[0]
    mesh = sharding.mesh if sharding else jax.sharding.Mesh(np.array([device]), ("device",))  # not that of a run around
    sharding = sharding or jax.sharding.SingleDeviceSharding(device)
    try:
        metadata = ocp.metadata(checkpoint)
        tree = metadata.metadata
        average = tree["ema"] or {}  # of all variables; in old checkpoints of the parameters only
        params = "ema" if average else "params"
        abstract = {name: tree[name] for name in ((params,) if "params" in average else (params, "collections"))}
        abstract = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), abstract)
        context = waiting_for_none()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load(checkpoint, abstract)
        with jax.set_mesh(mesh):
            sums = checksums(loaded)
        expected = metadata.custom_metadata["checksums"]
        if wrong := [name for name in sums if sums[name] != expected.get(name)]:
            raise DamagedCheckpoint(f"{wrong[0]} does not have the checksum it was saved with")
    except Exception as error:
        raise ConfigError(f"checkpoint {checkpoint} cannot be read: {first_line(error)}") from error
    return loaded["ema"] if "params" in average else {"params": loaded[params], **loaded["collections"]}


def waiting_for_none():
    """Orbax's context in which each process reads on its own: otherwise one that fails would keep the others waiting."""
    import jax
    from orbax.checkpoint import v1 as ocp

    context, index = ocp.Context(), jax.process_index()
    context.multiprocessing.primary_host = index
    context.multiprocessing.active_processes = {index}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{index}"
    return context


def checksums(tree: Any) -> dict[str, int]:
    """{path: 32-bit checksum} of every array, the same on any mesh."""
    import jax

    from vision_jax.models.stacking import path_name

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_checksum_leaves()([leaf for _, leaf in leaves]))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


@functools.cache
def _checksum_leaves():
    """The jitted function that computes the checksums of a list of arrays."""
    import jax
    import jax.numpy as jnp

    def one(x):
        bits = x.astype(jnp.uint8) if x.dtype == bool else x
        size = bits.dtype.itemsize
        bits = jax.lax.bitcast_convert_type(bits, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]).astype(jnp.uint32)
        index = jnp.zeros(bits.shape, jnp.uint32)
        for axis, length in enumerate(bits.shape):
            index = index * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        # Odd weights are invertible modulo 2**32, so every change of a single element is detected; integer addition is
        # associative, so the sum does not depend on the mesh.
        return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)

    return jax.jit(lambda leaves: [one(leaf) for leaf in leaves])


def first_line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
