import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.data.pipeline import eval_batches
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluators
from vision_jax.ops.losses import tops
from vision_jax.tasks import make_task
from vision_jax.tasks.classification import Classification
from vision_jax.training.partitioning import make_mesh


class Brightness(Classification):
    """A task whose model knows nothing but the mean brightness: what it predicts is easy to compute by hand."""

    def __init__(self, config):
        self.config, self.num_classes, self.metrics = config, 10, ("loss", "top1")

    def loss(self, variables, batch, rng, train):
        assert not train
        brightness = batch["image"].astype(jnp.float32).mean((1, 2, 3))
        correct = (jnp.floor(brightness).astype(jnp.int32) % 10 == batch["label"]) & batch["mask"]
        count = batch["mask"].sum()
        return 0.0, ({}, {"loss": (jnp.sum(brightness * batch["mask"]), count), "top1": (correct.sum(), count)})


@pytest.mark.parametrize("batch_size", [0, 8, 100, 1000])
def test_every_example_counts_once_on_any_mesh(batch_size):
    c = base_config()
    c.data.image_size, c.data.eval_resize = 8, "squash"
    c.evals.batch_size = batch_size
    c.batch_size = 64
    evaluator = make_evaluators(Brightness(c), c, make_mesh(c))["classification"]
    metrics = evaluator.run({})
    source = open_source("digits:test")
    with eval_batches(source, c, batch_size=1) as batches:
        rows = [(float(np.float32(b["image"][0]).mean()), int(b["label"][0])) for b in batches]
    assert metrics["examples"] == len(source) == 360 == len(rows)
    np.testing.assert_allclose(metrics["loss"], np.mean([brightness for brightness, _ in rows]), rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], np.mean([int(b) % 10 == label for b, label in rows]), rtol=1e-6)


def test_an_evaluation_can_be_switched_off():
    c = base_config()
    c.evals.classification.every = ""
    assert (
        make_evaluators(
            Brightness(c), c, jax.sharding.Mesh(np.array(jax.devices()).reshape(8, 1, 1), ("data", "fsdp", "tensor"))
        )
        == {}
    )


def folder_of(tmp_path, classes, content=b"no picture"):
    for i in range(classes):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a.png").write_bytes(content)
    return f"folder:{tmp_path}"


def test_pictures_none_of_which_can_be_read_are_an_error(tmp_path):
    c = base_config()
    c.data.image_size, c.batch_size, c.data.eval = 8, 8, folder_of(tmp_path, 10)
    evaluator = make_evaluators(Brightness(c), c, make_mesh(c))["classification"]
    with pytest.raises(ConfigError, match=f"none of the images of .*{tmp_path}"):
        evaluator.run({})


@pytest.mark.parametrize(("classes", "known"), [(2, (1,)), (5, (1,)), (6, (1, 5)), (1000, (1, 5))])
def test_five_classes_or_fewer_have_no_top_5(classes, known):
    assert tops(classes) == known


@pytest.mark.parametrize("classes", [5, 6])
def test_what_an_evaluation_measures_is_what_it_says(tmp_path, classes):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    c = base_config()
    c.model = dict(name="vit_ti16", patch_size=4, width=4, depth=1, num_heads=1, mlp_dim=4)
    c.data.image_size, c.batch_size = 8, 8
    c.data.train = c.data.eval = folder_of(tmp_path, classes, picture.getvalue())
    mesh = make_mesh(c)
    task = make_task(c, open_source(c.data.train))
    evaluator = make_evaluators(task, c, mesh)["classification"]
    variables = jax.jit(task.init)(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 3), jnp.uint8)})
    assert set(evaluator.run(variables)) == set(evaluator.metrics)
    assert ("top5" in evaluator.metrics) == (classes == 6)
