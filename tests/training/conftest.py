import numpy as np
import pytest
from PIL import Image
from tiny_run import config_of

from vision_jax.training import loop


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, name in [(split, name) for split in ("train", "test") for name in "ab"]:
        (folder / split / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def straight(data, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    loop.train(config_of(data), workdir)
    return workdir
