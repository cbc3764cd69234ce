"""Every shipped config as text: what it resolves to, its parameters, their groups and their places on meshes.

python tests/test_golden.py        # writes tests/golden/ anew; the diff shows what a change does to the recipes
"""

import collections
import pathlib
import re

import jax
import pytest
from test_configs import SPECS

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
SETTLED = ("data.tokenizer", "init_from", "log.compile_cache")  # what `settle` changes in order to plan
NUMBER = re.compile(r"(?<=_)\d+(?=/)")


def golden(spec: str) -> str:
    config = load_config(spec)
    said = dict(flat(to_dict(config)))
    source = outline_source(config.data.train)
    settle(config)
    task = make_task(config, source)
    resolved = dict(flat(to_dict(config))) | {key: said[key] for key in SETTLED}
    derived = derive(config, len(source)) | {"peak_lr": peak_lr(config)}
    params = variable_shapes(task.model, as_pair(config.data.image_size))["params"]
    lines = [f"{key} = {value!r}" for key, value in sorted(resolved.items())]
    lines += ["", *(f"{key} = {value!r}" for key, value in flat(derived)), ""]
    lines += [*table(config, params), "", format_groups(param_groups(config, params))]
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


def file_of(spec: str) -> pathlib.Path:
    return FOLDER / f"{pathlib.Path(spec).name.replace('.py', '').replace(':', '_')}.txt"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: pathlib.Path(spec).name)
def test_golden(spec):
    assert golden(spec) == file_of(spec).read_text(), "python tests/test_golden.py writes them anew"


def test_no_golden_file_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == {file_of(spec).name for spec in SPECS}


if __name__ == "__main__":
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for each in SPECS:
        file_of(each).write_text(golden(each))
        print(file_of(each))
