"""Every shipped config as text: what it resolves to, its parameters, their groups and places on meshes, what a chip holds.

python tests/test_golden.py        # writes tests/golden/ anew; the diff shows what a change does to the recipes

What a chip holds is of the plans in experiments/pods/plans.jsonl, whose sizes of the parameters are held against those
found here. Changes of a recipe need new plans: python experiments/pods/plan_all.py CONFIG.
"""

import collections
import contextlib
import functools
import importlib.util
import math
import os
import pathlib
import re

import jax
import pytest
from test_configs import SPECS, digits_csv

from vision_jax.command_line import load_config
from vision_jax.config import derive, to_dict
from vision_jax.models.inference import variable_shapes
from vision_jax.models.stacking import path_name
from vision_jax.ops.patches import as_pair
from vision_jax.plan import settle
from vision_jax.planning.outlines import outline_source
from vision_jax.tasks import make_task
from vision_jax.training.group_table import format_groups
from vision_jax.training.param_groups import param_groups
from vision_jax.training.partitioning import AXES, param_spec
from vision_jax.training.schedules import peak_lr

FOLDER = pathlib.Path(__file__).parent / "golden"
MESHES = (
    {"data": 1, "fsdp": 8, "tensor": 1},
    {"data": 1, "fsdp": 256, "tensor": 1},
    {"data": 1, "fsdp": 64, "tensor": 4},
)
POD_PLANS = pathlib.Path(__file__).parents[1] / "experiments" / "pods" / "plan_all.py"
SETTLED = ("data.tokenizer", "init_from", "log.compile_cache")  # what `settle` changes in order to plan
NUMBER = re.compile(r"(?<=_)\d+(?=/)")


def golden(spec: str) -> str:
    config = load_config(spec)
    said = dict(flat(to_dict(config)))
    with contextlib.chdir(digits_csv()):
        source = outline_source(config.data.train)
    settle(config)
    task = make_task(config, source)
    config = task.config
    resolved = dict(flat(to_dict(config))) | {key: said[key] for key in SETTLED}
    derived = derive(config, len(source)) | {"peak_lr": peak_lr(config)}
    params = variable_shapes(task.model, as_pair(config.data.image_size))["params"]
    lines = [f"{key} = {value!r}" for key, value in sorted(resolved.items())]
    lines += ["", *(f"{key} = {value!r}" for key, value in flat(derived)), ""]
    lines += [*table(config, params), "", format_groups(param_groups(config, params))]
    lines += ["", *planned(pathlib.Path(spec).name, config, params)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def flat(tree: dict, prefix: str = ""):
    """Sorted ("a.b", value) pairs."""
    for key, value in sorted(tree.items()):
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def table(config, params) -> list[str]:
    """A row for parameters that differ in the numbers of their layers alone: how many, shape, places on the meshes."""
    counted = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        specs = [param_spec(name, leaf.shape, mesh, config.mesh.rules, config.mesh.fsdp_min_size) for mesh in MESHES]
        places = [placed(spec, mesh) for spec, mesh in zip(specs, MESHES, strict=True)]
        counted[NUMBER.sub("*", name), " ".join(map(str, leaf.shape)), *places] += 1
    meshes = [" ".join(f"{axis}={mesh[axis]}" for axis in AXES if mesh[axis] > 1) for mesh in MESHES]
    cells = [("parameter", "shape", *meshes, "times"), *((*row, str(count)) for row, count in sorted(counted.items()))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]


def placed(spec, mesh: dict) -> str:
    """ "- fsdp tensor": over what each of an array's axes is divided; "-" where it is whole."""
    axes = [axis if axis and mesh[axis] > 1 else "-" for axis in spec]
    return " ".join(axes) if set(axes) - {"-"} else "-"


@functools.cache
def pod_plans():
    """experiments/pods/plan_all.py as a module."""
    spec = importlib.util.spec_from_file_location("plan_all", POD_PLANS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planned(name: str, config, params) -> list[str]:
    """What a chip of the intended slice holds, by the recorded plan."""
    plan = pod_plans().read_plans().get(name)
    assert plan is not None, f"no plan is recorded: python experiments/pods/plan_all.py {name}"
    anew = f"the recorded plan is of other settings: python experiments/pods/plan_all.py {name}"
    assert plan["topology"] == pod_plans().TOPOLOGIES[name] and plan["batch_size"] == config.batch_size, anew
    assert plan["memory"]["parameters"] == parameter_bytes(config, params, plan["mesh"]), anew
    mesh = " ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    lines = [f"MiB of a chip on {plan['topology']}{f', {mesh}' if mesh else ''}"]
    return [*lines, *(f"{part} = {size / 2**20:.1f}" for part, size in plan["memory"].items())]


def parameter_bytes(config, params, mesh: dict[str, int]) -> int:
    """Bytes of all parameters on one device of a mesh."""

    def share(path, leaf) -> int:
        spec = param_spec(path_name(path), leaf.shape, mesh, config.mesh.rules, config.mesh.fsdp_min_size)
        return leaf.size * leaf.dtype.itemsize // math.prod(mesh[axis] for axis in spec if axis)

    return sum(jax.tree.leaves(jax.tree_util.tree_map_with_path(share, params)))


def file_of(spec: str) -> pathlib.Path:
    return FOLDER / f"{pathlib.Path(spec).name.replace('.py', '').replace(':', '_')}.txt"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: pathlib.Path(spec).name)
def test_golden(spec):
    assert golden(spec) == file_of(spec).read_text(), "python tests/test_golden.py writes them anew"


def test_no_golden_file_is_left_over():
    assert {path.name for path in FOLDER.glob("*.txt")} == {file_of(spec).name for spec in SPECS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_digits.py", "clip_vitl14.py:cc12m"])
def test_recorded_plans_are_those_of_the_compiler(name, monkeypatch):
    pytest.importorskip("libtpu")
    for variable in [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]:
        monkeypatch.delenv(variable)  # of the tests, which compile with few optimisations
    recorded = pod_plans().read_plans()[name]
    made = pod_plans().plan(name, recorded["topology"])
    assert made["fits"] and made["flops_per_device"] == pytest.approx(recorded["flops_per_device"], rel=0.01)
    assert made["memory"]["needed"] == pytest.approx(recorded["memory"]["needed"], rel=0.05)


if __name__ == "__main__":
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for each in SPECS:
        file_of(each).write_text(golden(each))
        print(file_of(each))
