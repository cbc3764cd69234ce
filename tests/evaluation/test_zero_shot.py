import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation import EVALUATORS, evaluation, make_evaluator, make_evaluators
from vision_jax.evaluation.prompts import TEMPLATES
from vision_jax.evaluation.zero_shot import ZeroShotEvaluator
from vision_jax.training.partitioning import make_mesh

MESHES = [(1, {}), (8, {}), (8, {"fsdp": 2, "tensor": 2})]
ROWS, LENGTH, WIDTH = 997, 40, 33


class Linear:
    """A task whose pictures are their grey levels times a matrix, and whose texts are rows of a table by a checksum."""

    evaluations = ("zero_shot",)

    def tokenizer(self, texts, truncate=True):
        if not truncate and max(map(len, texts)) > LENGTH:
            raise ConfigError("a text is too long")
        return np.stack([np.frombuffer(text.encode()[:LENGTH].ljust(LENGTH, b"\0"), np.uint8) for text in texts]).astype(np.int32)  # fmt: skip

    def image_embeddings(self, variables, batch):
        grey = batch["image"].astype(jnp.float32).mean(-1).reshape(len(batch["image"]), -1)
        return unit(grey @ variables["kernel"])

    def text_embeddings(self, variables, tokens):
        return unit(variables["table"][checksum(tokens)])


def checksum(tokens):
    return (tokens * (1 + np.arange(LENGTH, dtype=np.int32) ** 2)).sum(-1) % ROWS


def unit(x):
    return x / (x**2).sum(-1, keepdims=True) ** 0.5


def text_embedding(variables, text):
    row = sum(byte * (1 + i * i) for i, byte in enumerate(text.encode()[:LENGTH])) % ROWS
    return unit(np.asarray(variables["table"][row], np.float64))


def by_hand(variables, prompts, source, tops=(1, 5)):
    """Accuracy by loops over prompts, classes and the readable examples; `prompts`: [classes][...]."""
    classes = [unit(sum(text_embedding(variables, text) for text in texts) / len(texts)) for texts in prompts]
    kernel, right, count = np.asarray(variables["kernel"], np.float64), np.zeros(len(tops)), 0
    for i in range(len(source)):
        example = source[i]
        if isinstance(example["image"], bytes):
            continue
        image = unit(example["image"].astype(np.float64).mean(-1).ravel() @ kernel)
        order = sorted(range(len(classes)), key=lambda k: (-image @ classes[k], k))
        right += [example["label"] in order[:top] for top in tops]
        count += 1
    return (right / count).tolist()


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(rng.normal(size=(64, WIDTH)), jnp.float32),
        "table": jnp.asarray(rng.normal(size=(ROWS, WIDTH)) * rng.uniform(0.1, 9, (ROWS, 1)), jnp.float32),
    }


def evaluator(config, devices=8, axes=None, **settings):
    config.evals.zero_shot, config.mesh = settings, axes or {}
    mesh = make_mesh(config, jax.devices()[:devices])
    return make_evaluator("zero_shot", config.evals.zero_shot, Linear(), config, mesh)


@pytest.mark.parametrize("batch_size", [0, 7, 200])
@pytest.mark.parametrize("devices, axes", MESHES)
def test_an_ensemble_by_loops(batch_size, devices, axes, config, variables):
    config.evals.batch_size = batch_size
    made = evaluator(config, devices, axes, templates="digits")
    metrics = made.run(variables)
    assert tuple(metrics) == made.metrics == ("top1", "top5")
    prompts = [[template.replace("{}", digit) for template in TEMPLATES["digits"]] for digit in "0123456789"]
    assert list(metrics.values()) == pytest.approx(by_hand(variables, prompts, open_source("digits:test")))
    expected = [unit(sum(text_embedding(variables, text) for text in texts)) for texts in prompts]
    np.testing.assert_allclose(made.class_embeddings(variables), expected, atol=1e-6)


def test_which_templates_and_names(config, variables, tmp_path):
    """The evaluation's own, else those of the training captions, else the name alone; names and contexts from a file."""
    digits = open_source("digits:test")

    def expected(*templates, names="0123456789"):
        return pytest.approx(
            by_hand(variables, [[template.replace("{}", name) for template in templates] for name in names], digits)
        )

    def measured(**settings):
        return list(evaluator(config, **{"templates": "", "classes": ""} | settings).run(variables).values())

    assert measured() == expected("{}")
    config.data.templates = ("a drawn {}.", "{}!")
    assert measured() == expected("a drawn {}.", "{}!")
    file = tmp_path / "templates.json"
    file.write_text('["one {}"]')
    assert measured(templates=str(file)) == expected("one {}")
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(dict(zip("0123456789", names, strict=True))))
    assert measured(templates="plain", classes=str(classes)) == expected("a photo of a {}.", names=names)
    classes.write_text(json.dumps([{"name": name, "context": "a number"} for name in names]))
    assert measured(templates="plain", classes=str(classes)) == expected("a photo of a {}, a number.", names=names)


def test_classes_of_one_name_tie_and_the_first_wins(config, variables, tmp_path, capsys):
    names = ["crane", "b", "c", "crane", "d", "crane", "e", "b", "f", "g"]
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(names))
    made = evaluator(config, classes=str(classes), templates="photos")
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "3 classes of 'digits:test'" in message and "3 like 0" in message
    assert "a picture that shows a crane." in message
    prompts = [[template.replace("{}", name) for template in TEMPLATES["photos"]] for name in names]
    metrics = list(made.run(variables).values())
    assert metrics == pytest.approx(by_hand(variables, prompts, open_source("digits:test")))
    classes.write_text(json.dumps(["crane"] * 10))
    first = np.mean([label == 0 for label in open_source("digits:test").labels])
    half = np.mean([label < 5 for label in open_source("digits:test").labels])
    metrics = evaluator(config, classes=str(classes)).run(variables)
    assert metrics == pytest.approx({"top1": first, "top5": half})


class Few:
    """Four classes of pictures, of which some are broken."""

    num_classes, class_names = 4, ("big_cat", "dog", "cow", "hen")

    def __init__(self, broken=(1, 8)):
        self.broken = broken

    def __len__(self):
        return 11

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        return {
            "image": b"none" if index in self.broken else image,
            "label": index % 4,
            "name": f"animal {index} of {self.broken}",
        }


def test_broken_pictures_and_padding_do_not_count(config, variables, monkeypatch, capsys):
    """Nor is there a top 5 of four classes; underscores in names are spaces."""
    monkeypatch.setattr(evaluation, "open_source", lambda spec, tfds_dir: Few())
    metrics = evaluator(config, source="folder:animals").run(variables)
    prompts = [["big cat"], ["dog"], ["cow"], ["hen"]]
    (expected,) = by_hand(variables, prompts, Few(), tops=(1,))
    assert metrics == {"top1": pytest.approx(expected)} and 0 < expected < 1
    monkeypatch.setattr(evaluation, "open_source", lambda spec, tfds_dir: Few(range(11)))
    with pytest.raises(ConfigError, match="none of the images of 'folder:animals' can be read"):
        evaluator(config).run(variables)


def test_a_diverged_model_knows_nothing(config, variables):
    for name in variables:
        broken = variables | {name: jnp.full_like(variables[name], jnp.nan)}
        assert evaluator(config).run(broken) == {"top1": 0.0, "top5": 0.0}


def test_one_program_for_all_texts(config, variables):
    """Many more prompts than a batch, in chunks of one shape."""
    config.evals.batch_size = 16
    made = evaluator(config, templates="photos")
    made.run(variables)
    assert made.texts.step._cache_size() == 1
    assert len(made.texts.tokens) == 140


def test_sources_that_cannot_serve(config, monkeypatch):
    few = Few()
    few.num_classes, few.class_names = 0, ()
    monkeypatch.setattr(evaluation, "open_source", lambda spec, tfds_dir: few)
    with pytest.raises(ConfigError, match=r"evals\.zero_shot needs data with classes, and 'shapes:test' has none"):
        evaluator(config, source="shapes:test")
    few.num_classes = 4
    with pytest.raises(ConfigError, match="does not name its 4 classes"):
        evaluator(config, source="folder:animals")


def test_bad_settings_are_refused(config):
    with pytest.raises(ConfigError, match=r"evals\.zero_shot\.templates='digit'.*did you mean 'digits'"):
        evaluator(config, templates="digit")
    with pytest.raises(ConfigError, match=r"evals\.zero_shot\.classes"):
        evaluator(config, classes="nowhere.json")
    config.evals.zero_shot.classes = ""
    config.data.templates = ("a picture",)
    with pytest.raises(ConfigError, match=r"config\.data\.templates"):
        evaluator(config, templates="")
    config.data.templates, config.data.long_texts = ("a text that is longer than the forty bytes: {}",), "raise"
    with pytest.raises(ConfigError, match="too long"):
        evaluator(config)
    config.data.long_texts = "cut"
    evaluator(config)


def test_an_evaluation_that_the_task_does_not_offer(config, variables):
    mesh = make_mesh(config)
    assert make_evaluators(Linear(), config, mesh) == {}  # evals.classification is on by default, and says nothing
    config.evals.zero_shot.every = "3 epochs"
    (made,) = make_evaluators(Linear(), config, mesh).values()
    assert isinstance(made, ZeroShotEvaluator)
    config.evals.classification.every = ""
    make_evaluators(Linear(), config, mesh)
    for name in EVALUATORS.keys() - {"zero_shot", "task"}:
        wrong = base_config()
        wrong.evals[name].every = "7 steps"
        with pytest.raises(
            ConfigError,
            match=rf"evals\.{name} has kind '{name}', but task 'classification' offers only zero_shot, task",
        ):
            make_evaluators(Linear(), wrong, mesh)
