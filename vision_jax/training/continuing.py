"""Resuming a run: which parts of its config and data may differ from before, and which changes were accepted."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from vision_jax.config import Section, leaves
from vision_jax.data.fingerprints import changes
from vision_jax.errors import ConfigError
from vision_jax.training.accepting import DATA
from vision_jax.training.origin import Origin, recorded_origin
from vision_jax.weights.work_folder import read_run_config, read_run_record

# Keys and sections that may change between two starts, and why. docs/guarantees.md has the same table.
MAY_CHANGE = {
    "log": "what is reported of a step does not change it",
    "evals": "what is measured of a model does not change it",
    "data.eval": "evaluation data belong to what is measured",
    "data.eval_resize": "only evaluation reads it",
    "data.eval_crop": "only evaluation reads it",
    "checkpoint": "what is saved, and what counts as best, does not change a step",
    "data.workers": "batches are the same for any number of workers",
    "data.threads": "batches are the same for any number of threads",
    "data.prefetch": "it says how early a batch is made, not how",
    "data.tfds_dir": "the same data set may lie elsewhere",
    "data.max_broken": "it says when to stop, not what to compute",
    "optimizer.max_skipped": "it says when to stop, not what to compute",
    "model.remat": "what is computed again is the same",
    "mesh": "the same sums in another order: results differ by rounding from here on",
}
SAID = ("mesh",)  # those whose change is reported


class Accepted(NamedTuple):
    """A change that was accepted on the command line, as config.json keeps it."""

    key: str
    was: Any
    is_: Any


class Earlier(NamedTuple):
    """What config.json in a work folder says about the run there."""

    config: Section
    class_names: tuple[str, ...]
    target_names: tuple[str, ...]
    data: dict[str, Any]  # the fingerprint of the training data; {} if it was not recorded
    accepted: tuple[dict, ...]
    starts: tuple[dict, ...]  # who started training, see `provenance`
    origin: Origin | None  # what the source of its init_from says about itself


def read_earlier(workdir: pathlib.Path) -> Earlier | None:
    """The run in a work folder, None if there is none yet."""
    if not (workdir / "config.json").is_file():
        return None
    record = read_run_record(workdir)
    return Earlier(
        read_run_config(workdir),
        *(tuple(record["derived"].get(key, ())) for key in ("class_names", "target_names")),
        record["derived"].get("data", {}),
        tuple(record["accepted"]),
        tuple(record["starts"]),
        recorded_origin(workdir),
    )


def check_data(
    workdir: pathlib.Path, earlier: Earlier, config: Section, data: dict[str, Any], accept: Sequence[str]
) -> list[Accepted]:
    """The accepted differences between the fingerprints of the training data and of the run's; raises ConfigError for
    one that is not accepted."""
    found = changes(earlier.data, data) if earlier.data else []
    if not found:
        return []
    was, is_ = earlier.config.data.train, config.data.train
    found = ([f"data.train was {was!r}, is {is_!r}"] if was != is_ else []) + found
    if not _within(DATA, accept):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ConfigError(
            f"the training data are not those that the run in {workdir} began with: {'; '.join(found[:3])}{more};"
            f" --accept={DATA} goes on with them, another --workdir begins anew"
        )
    return [Accepted(DATA, earlier.data.get("digest"), data["digest"])]


def check_keys(workdir: pathlib.Path, earlier: Earlier, config: Section, accept: Sequence[str]) -> list[Accepted]:
    """The accepted differences between the config and the run's; raises ConfigError for one that is not accepted."""
    found = [change for change in differences(earlier.config, config) if not _within(change.key, MAY_CHANGE)]
    refused = [change for change in found if not _within(change.key, accept)]
    if refused:
        told = "; ".join(f"{key}: was {was!r}, is {now!r}" for key, was, now in refused[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        flags = " ".join(f"--accept={change.key}" for change in refused[:3])
        raise ConfigError(
            f"{workdir} holds a run with another config ({told}{more}): {flags} goes on knowingly, another --workdir begins"
            " anew, and --config.init_from starts from this run's parameters"
        )
    return found


def said(earlier: Earlier, config: Section) -> list[str]:
    """A line for each change that is allowed but reported."""
    found = differences(earlier.config, config)
    return [f"{change.key}: {MAY_CHANGE[key]}" for key in SAID for change in found if _within(change.key, (key,))]


def differences(before: Section, after: Section) -> list[Accepted]:
    """Every key whose value differs, with None where a key is missing."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return [
        Accepted(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if json.dumps(old.get(key)) != json.dumps(new.get(key))
    ]


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
