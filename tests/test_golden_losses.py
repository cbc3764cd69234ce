"""The first losses of every config that runs on scikit-learn's digits, on one device, against those kept as text.

python tests/test_golden_losses.py [NAME ...]       # writes tests/golden/losses/PLATFORM/NAME.txt anew

What init_from would start from is left out: parameters are drawn. The tolerance is that of other compilers of the same
platform, of other versions of JAX and of the tests' own, which optimise little: over 30 steps their roundings grow. A
platform without files is passed over.
"""

import contextlib
import pathlib
import sys

import jax
import numpy as np
import pytest

from vision_jax.command_line import load_config
from vision_jax.data.feed import device_batches
from vision_jax.data.pipeline import train_batches
from vision_jax.training.setup import compile_step, prepare

REPO = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path(__file__).parent / "golden" / "losses"
TABLES = ("multi_label_digits", "regression_digits")  # of a csv that experiments/labels makes
NAMES = sorted({path.stem for path in REPO.glob("configs/*_digits*.py")} - set(TABLES))
STEPS = 30
TOLERANCE = 1e-5  # relative; with and without optimisations they lie within 5e-7
ALWAYS = ("vit_digits",)  # the others in the slow lane


def first_losses(name: str) -> list[float]:
    """The loss of each of the first `STEPS` steps, as a run on one device would write them."""
    config = load_config(str(REPO / "configs" / f"{name}.py"))
    config.init_from = ""
    setup = prepare(config, jax.devices()[:1])
    of_task = {"source": setup.source, "fields": setup.task.fields, "reader": setup.reader}
    made = train_batches(config, seed=config.seed, start_step=0, **of_task)
    with jax.set_mesh(setup.mesh), contextlib.closing(made) as host:
        state, step = jax.jit(setup.create, out_shardings=setup.shardings)(), compile_step(setup)
        losses = []
        for _, batch in zip(range(STEPS), device_batches(host, setup.mesh), strict=False):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]


def file_of(name: str) -> pathlib.Path:
    return FOLDER / jax.default_backend() / f"{name}.txt"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in NAMES]
)
def test_the_first_losses_are_those_of_the_kept_run(name):
    path = file_of(name)
    if not path.parent.is_dir():
        pytest.skip(f"no losses are kept of the platform {jax.default_backend()}")
    kept = np.array(path.read_text().split(), float)
    assert len(kept) == STEPS and len(set(kept)) > STEPS // 2
    np.testing.assert_allclose(
        first_losses(name), kept, rtol=TOLERANCE, err_msg=f"python tests/test_golden_losses.py {name}"
    )


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        file_of(each).parent.mkdir(parents=True, exist_ok=True)
        file_of(each).write_text("".join(f"{loss:.7g}\n" for loss in first_losses(each)))
        print(file_of(each))
