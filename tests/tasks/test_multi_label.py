"""Any number of classes a picture: torch's and scikit-learn's numbers, and runs on tables and sources of one's own."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from labelled import check_devices, config_of, own, write_table
from sklearn.metrics import average_precision_score

import vision_jax as vj
from vision_jax.data import open_source
from vision_jax.data.classes import Labels
from vision_jax.errors import ConfigError
from vision_jax.tasks import make_task
from vision_jax.tasks.multi_label import average_precision
from vision_jax.training.loop import evaluate, train

NAMES = ("ant", "bee", "cat")


def task_of(**loss):
    config = config_of("multi_label", **{f"loss.{name}": value for name, value in loss.items()})
    return make_task(config, Labels(len(NAMES), NAMES))


def loss_of(task, logits, labels, mask, train=False):
    task.outputs = lambda *_, **__: (jnp.asarray(logits), {})
    batch = {"label": jnp.asarray(labels, jnp.float32), "mask": jnp.asarray(mask)}
    value, (_, metrics) = task.loss({}, batch, None, train)
    return float(value), {name: float(total) / float(count) for name, (total, count) in metrics.items()}


@pytest.mark.parametrize("weights", [(), (3.0,), (0.5, 1.0, 20.0)])
def test_loss_is_that_of_torch(weights):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = np.float32(rng.normal(size=(7, 3)) * 30)  # far beyond what exp can take in float32
    logits[0] = 0, -1e4, 1e4
    labels, mask = rng.integers(0, 2, (7, 3)), np.array([1, 1, 0, 1, 1, 0, 1], bool)
    value, metrics = loss_of(task_of(positive_weights=weights), logits, labels, mask)
    oracle = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights or 1.0))
    expected = oracle(torch.tensor(logits[mask]), torch.tensor(labels[mask], dtype=torch.float32)).item()
    np.testing.assert_allclose([value, metrics["loss"]], expected, rtol=1e-6)
    assert metrics["right"] == pytest.approx(((logits > 0) == labels)[mask].mean())


def test_smoothing_draws_targets_to_a_half_in_training_alone():
    logits, labels = np.float32([[2, -1, 0.5]]), np.array([[1, 0, 1]])
    task = task_of(label_smoothing=0.2)
    p, targets = 1 / (1 + np.exp(-logits)), np.array([[0.9, 0.1, 0.9]])
    expected = -np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    assert loss_of(task, logits, labels, [True], train=True)[0] == pytest.approx(expected, rel=1e-6)
    plain = task_of()
    assert loss_of(task, logits, labels, [True]) == loss_of(plain, logits, labels, [True])


def test_a_batch_without_a_readable_picture_has_no_loss():
    task = task_of()
    task.outputs = lambda *_, **__: (jnp.full((2, 3), 5.0), {})
    value, (_, metrics) = task.loss({}, {"label": jnp.ones((2, 3)), "mask": jnp.zeros(2, bool)}, None, True)
    assert value == 0 and metrics["loss"] == (0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_average_precision_is_that_of_scikit_learn(seed, levels):
    """With few levels most scores are equal to others."""
    rng = np.random.default_rng(seed)
    scores = np.float32(rng.integers(0, levels, 50) / 7)
    positive = rng.random(50) < 0.3
    positive[0] = True
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores), rel=1e-12)


@pytest.mark.parametrize(
    "scores, positive", [([1.0], [True]), ([2, 1], [False, True]), ([1, 1, 1], [False, True, False])]
)
def test_average_precision_of_few(scores, positive):
    expected = average_precision_score(positive, scores)
    assert average_precision(np.array(scores), np.array(positive)) == pytest.approx(expected)


def test_classes_without_an_example_do_not_count():
    task, rng = task_of(), np.random.default_rng(0)
    labels, logits = np.float32(rng.integers(0, 2, (20, 3))), np.float32(rng.normal(size=(20, 3)))
    labels[:, 1] = 0
    expected = average_precision_score(labels[:, [0, 2]], logits[:, [0, 2]], average="macro")
    assert task.score(logits, labels)["mAP"] == pytest.approx(expected)
    assert np.isnan(task.score(logits, np.zeros_like(labels))["mAP"])


def labels_of_rows(train, other):
    """Of a task on the table `train`, the "label" of each example of the table `other`, class -> number."""
    task = make_task(config_of("multi_label", train), source := open_source(train))
    reader, source = task.reader(open_source(other), train=False), open_source(other)
    rows = [reader(source[i], None)["label"] for i in range(len(source))]
    return [dict(zip(task.class_names, row.tolist(), strict=True)) for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        "file,labels\n0.png,cat|ant\n1.png,\n2.png,bee",
        "file,cat,ant,bee\n0.png,1,1,0\n1.png,0,0,0\n2.png,0,0.0,1.0",  # targets stand for classes
        "bee,ant,file,cat\n0,1,0.png,1\n0,0,1.png,0\n1,0,2.png,0",  # in another order
    ],
)
@pytest.mark.parametrize("columns", [False, True])
def test_classes_are_found_by_name(tmp_path, text, columns):
    train = "file,ant,bee,cat\n0.png,1,1,1" if columns else "file,labels\n0.png,cat|ant|bee"
    train, other = write_table(tmp_path / "train", train), write_table(tmp_path / "other", text)
    none = dict.fromkeys(NAMES, 0.0)
    assert labels_of_rows(train, other) == [none | {"ant": 1.0, "cat": 1.0}, none, none | {"bee": 1.0}]


def test_evaluation_data_may_lack_classes_and_have_but_one_each(tmp_path):
    train = write_table(tmp_path / "train", "file,labels\n0.png,cat|ant|bee")
    other = write_table(tmp_path / "other", "file,label\n0.png,cat\n1.png,bee")
    assert labels_of_rows(train, other) == [{"ant": 0, "bee": 0, "cat": 1}, {"ant": 0, "bee": 1, "cat": 0}]
    with pytest.raises(ConfigError, match=r"the evaluation data has the class 'cats'.* did you mean 'cat'"):
        labels_of_rows(train, write_table(tmp_path / "new", "file,labels\n0.png,cats"))
    with pytest.raises(ConfigError, match="the evaluation data must have classes"):
        labels_of_rows(train, write_table(tmp_path / "none", "file,caption\n0.png,a cat"))


@pytest.mark.parametrize(
    "example, words",
    [
        ({"labels": (3,)}, "numbers of classes, 0 to 2, got"),
        ({"labels": (-1,)}, "numbers of classes"),
        ({"label": 7}, "numbers of classes"),
        ({"targets": (0, 1)}, "0 or 1 for each of 3 classes, got"),
        ({"targets": (0, 1, 0.5)}, "0 or 1 for each"),
        ({"targets": (0, 1, float("nan"))}, "0 or 1 for each"),
        ({}, "0 or 1 for each"),
    ],
)
def test_examples_that_make_no_sense(example, words):
    task, source = task_of(), own([example], class_names=NAMES)
    with pytest.raises(ConfigError, match=rf"mine\[0\]: its .*{words}"):
        task.reader(source, train=False)(source[0], None)


def test_classes_need_no_names():
    source = own([{"labels": (0, 3)}, {"labels": ()}], num_classes=4)
    task = make_task(config_of("multi_label"), source)
    assert task.class_names == () and task.num_classes == 4
    assert task.reader(source, train=False)(source[0], None)["label"].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"loss.positive_weights": (1.0, 2.0)}, "positive_weights takes one number above 0, or one for each of the 3"),
        ({"loss.positive_weights": (0.0,)}, "positive_weights"),
        ({"data.augment.mixup": 0.2}, "augment.mixup does not belong to multi_label"),
        ({"data.augment.cutmix": 1.0}, "augment.cutmix does not belong"),
    ],
)
def test_configs_that_make_no_sense(keys, words):
    with pytest.raises(ConfigError, match=words):
        make_task(config_of("multi_label", **keys), Labels(3, NAMES))
    with pytest.raises(ConfigError, match="needs labels"):
        make_task(config_of("multi_label"), Labels())


def test_a_head_of_another_width_is_told_before_training(tmp_path):
    data = write_table(tmp_path / "data", "file,labels\n0.png,cat|ant")
    with pytest.raises(ConfigError, match=r"vit_ti16 that does not end in the 2 outputs .* multi_label"):
        train(config_of("multi_label", data, **{"model.num_classes": 5}), tmp_path / "run")


def test_other_tasks_refuse_data_of_several_labels(tmp_path):
    """Instead of taking each example for one of class 0."""
    data = write_table(tmp_path / "data", "file,labels\n" + "0.png,cat|ant\n1.png,ant\n" * 4)
    with pytest.raises(ConfigError, match=r"[01]\.png has 'labels', any number of them"):
        train(config_of("classification", data), tmp_path / "run")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_on_eight_devices_is_that_on_one(tmp_path, accumulate):
    data = write_table(tmp_path / "data", "file,labels\n0.png,cat|ant|bee")
    check_devices(
        config_of("multi_label", data),
        {"label": np.float32(np.random.default_rng(1).integers(0, 2, (16, 3)))},
        accumulate,
    )


def test_a_run(tmp_path):
    """On eight devices, in micro-batches, one picture missing; its mAP is scikit-learn's of the model that it saved."""
    shown = [[name for j, name in enumerate(NAMES) if i >> j & 1] for i in range(8)]
    text = "\n".join(["file,labels", *(f"{i}.png,{'|'.join(shown[i])}" for i in range(8))])
    data = write_table(tmp_path / "data", text, missing=("3.png",))
    config = config_of("multi_label", data, **{"optimizer.accumulate": 2, "checkpoint.best": "multi_label/mAP"})
    summary = train(config, tmp_path / "run")
    assert summary["multi_label/examples"] == 7 and summary["train/broken"] > 0 and summary["train/skipped"] == 0
    seen = [i for i in range(8) if i != 3]
    labels = np.array([[name in shown[i] for name in NAMES] for i in seen])
    model, variables = vj.load_pretrained(tmp_path / "run")
    images = np.stack([vj.preprocessing(tmp_path / "run")(tmp_path / "data" / f"{i}.png") for i in seen])
    logits = np.asarray(model.apply(variables, images))
    assert summary["multi_label/mAP"] == pytest.approx(average_precision_score(labels, logits, average="macro"))
    assert summary["multi_label/right"] == pytest.approx(np.mean((logits > 0) == labels))
    derived = json.loads((tmp_path / "run" / "config.json").read_text())["derived"]
    assert derived["class_names"] == list(NAMES) and derived["activation"] == "sigmoid"

    config.data.eval = write_table(
        tmp_path / "test", "cat,file,bee\n" + "".join(f"{i % 2},{i}.png,1\n" for i in range(8))
    )
    found = evaluate(config, tmp_path / "run")  # of other data, whose targets are classes, and which lack one
    images = np.stack([vj.preprocessing(tmp_path / "run")(tmp_path / "test" / f"{i}.png") for i in range(8)])
    logits = np.asarray(model.apply(variables, images))
    expected = average_precision_score(np.array([[1, i % 2] for i in range(8)]), logits[:, 1:], average="macro")
    assert found["multi_label/mAP"] == pytest.approx(expected)


@pytest.mark.parametrize("columns", [False, True])
def test_a_run_does_not_go_on_with_other_classes(tmp_path, columns):
    """Not even where other data are accepted; in another order they are the same."""
    texts = {
        "is": ("file,labels\n0.png,ant\n1.png,bee\n2.png,bee|ant", "file,ant,bee\n0.png,1,0\n1.png,0,1\n2.png,1,1"),
        "turned": ("file,labels\n2.png,bee|ant\n1.png,bee", "file,bee,ant\n2.png,1,1\n1.png,1,0"),
        "new": ("file,labels\n0.png,ant|bee\n1.png,bees", "file,ant,bee,bees\n0.png,1,1,0\n1.png,0,0,1"),
    }
    data, run = write_table(tmp_path / "data", texts["is"][columns]), tmp_path / "run"
    table = tmp_path / "data" / "table.csv"
    train(config_of("multi_label", data, duration="3 steps"), run)
    config = config_of("multi_label", data)
    table.write_text(texts["new"][columns])
    with pytest.raises(ConfigError, match=r"training data are not those .*table\.csv' had 3 rows"):
        train(config, run)
    with pytest.raises(ConfigError, match=r"config\.data\.train=.* has the class 'bees'"):
        train(config, run, accept=["data", "duration"])
    table.write_text(texts["turned"][columns])
    train(config, run, accept=["data", "duration"])
    derived = json.loads((run / "config.json").read_text())["derived"]
    assert derived["target_names" if columns else "class_names"] == ["ant", "bee"]
