import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation import features as features_module
from vision_jax.evaluation import make_evaluator, make_evaluators, measure
from vision_jax.evaluation.features import FeatureExtractor, in_chunks, shared_features
from vision_jax.tasks import make_task
from vision_jax.training.loop import evaluate, train
from vision_jax.training.partitioning import make_mesh


@pytest.mark.parametrize("batch_size, axes", [(0, {}), (7, {"fsdp": 2, "tensor": 2}), (360, {})])
def test_every_example_once_and_in_order(batch_size, axes, config, pixels):
    config.evals.batch_size, config.mesh = batch_size, axes
    features, labels = FeatureExtractor(pixels, config, make_mesh(config))({"scale": 2.0}, "digits:test")
    examples = list(open_source("digits:test"))
    grey = np.stack([example["image"][..., 0].ravel() for example in examples]) / 255
    assert features.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_allclose(features, 2 * grey, atol=1e-6)
    np.testing.assert_array_equal(labels, [example["label"] for example in examples])


def test_broken_images_are_left_out_and_a_mix_counts_each_example_once(config, pixels, tmp_path):
    for label, name in enumerate("ab"):
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 100 * label + number, np.uint8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    spec = ((f"folder:{tmp_path}", 1.0), (f"folder:{tmp_path}", 5.0))
    features, labels = FeatureExtractor(pixels, config, make_mesh(config))({"scale": 255.0}, spec)
    np.testing.assert_allclose(features[:, 0], [0, 2, 100, 101, 102] * 2, atol=1e-3)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1] * 2)


def test_a_source_without_a_readable_image_is_an_error(config, pixels, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="can be read"):
        FeatureExtractor(pixels, config, make_mesh(config))({"scale": 1.0}, f"folder:{tmp_path}")


def test_an_evaluation_extracts_each_source_once_and_the_next_one_anew(config, pixels, monkeypatch):
    opened = []
    every_example = features_module.every_example

    def counted(source, *rest):
        opened.append(len(source))
        return every_example(source, *rest)

    monkeypatch.setattr(features_module, "every_example", counted)
    config.evals.one = config.evals.other = dict(kind="knn")
    config.evals.classification.every = ""
    evaluators = make_evaluators(pixels, config, make_mesh(config))
    variables = {"scale": 1.0}
    good = measure(evaluators, variables)
    assert sorted(opened) == [360, 1437]
    variables["scale"] = 0.0  # the same dictionary, but not the same model
    assert measure(evaluators, variables)["other/top1"] < 0.2 < 0.9 < good["one/top1"] == good["other/top1"]
    assert len(opened) == 4
    evaluators["one"].run(variables), evaluators["one"].run(variables)
    assert len(opened) == 8


def test_different_variables_do_not_share_features(config, pixels):
    extract = FeatureExtractor(pixels, config, make_mesh(config))
    with shared_features():
        once, twice = (extract({"scale": scale}, "digits:test")[0] for scale in (1.0, 2.0))
    np.testing.assert_allclose(twice, 2 * once)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "vit_ti16", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32},
        {"name": "vit_ti16", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "representation_size": 8},
    ],
    ids=["vit", "vit with a representation"],
)  # fmt: skip
def test_the_head_turns_the_features_into_the_logits(model, config):
    config.model, config.data.image_size = model, 16
    config.precision.compute = "bfloat16"
    task = make_task(config, open_source("digits:test"))
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (4, 16, 16, 3), np.uint8)}
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    head = variables["params"]["head"] = {
        "kernel": rng.normal(size=variables["params"]["head"]["kernel"].shape).astype(np.float32),
        "bias": rng.normal(size=10).astype(np.float32),
    }
    features = jax.jit(task.features)(variables, batch)
    logits = jax.jit(task.model.apply)(variables, task.images(batch))
    assert features.dtype == jnp.float32 and features.shape == (4, len(head["kernel"]))
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 30, 64, 1000])
def test_chunks_are_the_rows_in_order_and_padding(rows, config):
    x = np.arange(200, dtype=np.int32).reshape(100, 2)
    chunks = np.asarray(in_chunks(x, rows, make_mesh(config), fill=-1))
    assert chunks.shape[1] <= max(rows, 8) + 7 and chunks.shape[1] % 8 == 0
    flat = chunks.reshape(-1, 2)
    np.testing.assert_array_equal(flat[:100], x)
    assert (flat[100:] == -1).all()


def test_what_cannot_be_measured_is_refused_before_training(config, pixels, tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "0.png")
    config.evals.knn = {"every": "1 epochs", "train": f"folder:{tmp_path}"}
    with pytest.raises(
        ConfigError, match=r"digits:test' has the class '0' \(and 9 more\), which 'folder:.*evals.knn learns, does"
    ):
        make_evaluators(pixels, config, make_mesh(config))
    config.evals.batch_size = -1
    with pytest.raises(ConfigError, match=r"evals\.batch_size"):
        make_evaluators(pixels, config, make_mesh(config))


@pytest.mark.parametrize("name", ["classification", "knn", "linear_probe"])
def test_data_without_classes_are_refused(name, config, pixels):
    def make():
        make_evaluator(name, config.evals[name], pixels, config, make_mesh(config))

    if name != "classification":
        config.evals[name].train = "shapes:train"
        with pytest.raises(ConfigError, match=rf"evals\.{name} learns classes, and 'shapes:train' has none"):
            make()
        config.evals[name].train = ""
    config.data.eval = "shapes:test"
    with pytest.raises(ConfigError, match=rf"evals\.{name} needs data with classes, and 'shapes:test' has none"):
        make()


def test_a_run_measures_its_frozen_features(config, tmp_path):
    config.model = {"name": "vit_ti16", "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    config.batch_size, config.duration = 32, "4 steps"
    config.mesh.fsdp = 2
    config.checkpoint.best = "knn/top1"
    config.evals.knn.every = "2 steps"
    config.evals.linear_probe = {"every": "4 steps", "l2": (0.1, 0.01), "max_iter": 50, "shots": (5,)}
    config.log = {"compile_cache": "", "tensorboard": False}
    summary = train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "knn/top1" in line] == [2, 4]
    (last,) = [line for line in lines if "linear_probe/top1" in line]
    names = {"classification/loss", "classification/top1", "knn/top1", "knn/top5", "linear_probe/top1", "linear_probe/l2",
             "linear_probe/5shot_top1"}  # fmt: skip
    assert last["step"] == 4 and names <= set(last) and names <= set(summary)
    assert last["linear_probe/top1"] > 0.5 < last["knn/top1"] < last["knn/top5"] <= 1
    again = evaluate(config, tmp_path)
    for name in names:
        assert again[name] == pytest.approx(last[name], abs=0.006)  # two of the 360 pictures
