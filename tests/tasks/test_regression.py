"""Numbers from pictures: torch's and scikit-learn's numbers, and runs on tables and sources of one's own."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from labelled import check_devices, config_of, own, write_table
from sklearn.metrics import mean_absolute_error, r2_score

import vision_jax as vj
from vision_jax.data import open_source
from vision_jax.data.classes import Labels
from vision_jax.errors import ConfigError
from vision_jax.tasks import make_task
from vision_jax.training.loop import evaluate, train

NAMES = ("age", "size")


def task_of(names=NAMES, **loss):
    config = config_of("regression", **{f"loss.{name}": value for name, value in loss.items()})
    return make_task(config, Labels(target_names=names))


@pytest.mark.parametrize("names", [NAMES, ("age",)])
@pytest.mark.parametrize("delta", [0.0, 0.5, 3.0])
def test_loss_is_that_of_torch_and_mae_that_of_scikit_learn(delta, names):
    torch = pytest.importorskip("torch")
    rng, count = np.random.default_rng(0), len(names)
    mean, std = (40.0, -2.0)[:count], (10.0, 0.5)[:count]
    outputs, mask = np.float32(rng.normal(size=(9, count)) * 3), rng.random(9) > 0.3
    targets = np.float32(rng.normal(size=(9, count)) * std + mean)
    task = task_of(names, huber_delta=delta, mean=mean, std=std)
    task.outputs = lambda *_, **__: (jnp.asarray(outputs), {})
    value, (_, metrics) = task.loss({}, {"target": jnp.asarray(targets), "mask": jnp.asarray(mask)}, None, True)
    oracle = torch.nn.HuberLoss(delta=delta) if delta else lambda x, y: torch.nn.MSELoss()(x, y) / 2
    expected = oracle(torch.tensor(outputs[mask]), torch.tensor(((targets - mean) / std)[mask])).item()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    found = {name: float(total) / float(number) for name, (total, number) in metrics.items()}
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets[mask], outputs[mask] * std + mean), rel=1e-5)


@pytest.mark.parametrize("case", ["two", "one", "a constant", "a constant that is met", "far from zero"])
def test_scores_are_those_of_scikit_learn(case):
    rng = np.random.default_rng(0)
    count = 1 if case == "one" else 2
    targets = np.float32(rng.normal(size=(30, count)))
    predicted = targets + np.float32(rng.normal(size=targets.shape))
    if "constant" in case:
        targets[:, 1] = 4.5
        predicted[:, 1] = 4.5 if "met" in case else predicted[:, 1]
    if case == "far from zero":
        targets, predicted = targets + np.float32(1e4), predicted + np.float32(1e4)
    task = task_of(NAMES[:count])
    scores = task.score(predicted, targets)
    assert scores["r2"] == pytest.approx(r2_score(np.float64(targets), np.float64(predicted)))
    each = mean_absolute_error(targets, predicted, multioutput="raw_values")
    expected = dict(zip(("mae_age", "mae_size"), each, strict=True)) if count > 1 else {}
    assert scores == {"r2": scores["r2"], **{name: pytest.approx(value) for name, value in expected.items()}}
    assert {"loss", "mae", *scores} == set(task.metrics)


def test_a_constant_is_one_however_its_mean_is_rounded():
    """0.1 in 32 bits, thrice, has a mean in 64 bits that need not be it."""
    for count in (3, 7, 11, 1000):
        targets = np.full((count, 1), 0.1, np.float32)
        assert task_of(("age",)).score(targets, targets)["r2"] == 1
        assert task_of(("age",)).score(targets + 1, targets)["r2"] == 0


def test_measures_in_the_targets_own_units():
    task = task_of(mean=(40.0, -2.0), std=(10.0, 0.5))
    task.outputs = lambda *_, **__: (jnp.array([[1.0, -2.0]]), {})
    predicted, _ = task.measure({}, {"target": jnp.zeros((1, 2))})
    assert predicted.tolist() == [[50.0, -3.0]]


def test_targets_are_found_by_name(tmp_path):
    train_data = write_table(tmp_path / "train", "file,age,size\n0.png,1,2")
    other = open_source(write_table(tmp_path / "other", "size,label,file,x,age\n20,cat,0.png,7,10"))
    task = make_task(config_of("regression", train_data), open_source(train_data))
    assert task.reader(other, train=False)(other[0], None)["target"].tolist() == [10, 20]
    lacking = open_source(write_table(tmp_path / "lacking", "file,age,sizes\n0.png,1,2"))
    with pytest.raises(ConfigError, match=r"the evaluation data has no number 'size', .*did you mean 'sizes'"):
        task.reader(lacking, train=False)


@pytest.mark.parametrize("example", [{}, {"targets": (1,)}, {"targets": (1, 2, 3)}, {"targets": (1, float("nan"))}])
def test_examples_that_make_no_sense(example):
    source = own([example], target_names=NAMES)
    with pytest.raises(ConfigError, match=r"mine\[0\]: its targets must be 2 finite numbers, got"):
        task_of().reader(source, train=False)(source[0], None)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"loss.mean": (1.0, 2.0, 3.0)}, "loss.mean takes one number, or one for each of the 2 targets"),
        ({"loss.mean": ()}, "loss.mean"),
        ({"loss.std": (1.0, 0.0)}, "loss.std takes one number above 0, or one for each"),
        ({"loss.huber_delta": -1.0}, "huber_delta must be 0"),
        ({"data.augment.mixup": 0.2}, "augment.mixup does not belong to regression"),
    ],
)
def test_configs_that_make_no_sense(keys, words):
    with pytest.raises(ConfigError, match=words):
        make_task(config_of("regression", **keys), Labels(target_names=NAMES))
    with pytest.raises(ConfigError, match="needs numbers as targets"):
        make_task(config_of("regression"), Labels(3, ("a", "b", "c")))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_on_eight_devices_is_that_on_one(tmp_path, accumulate):
    data = write_table(tmp_path / "data", "file,age,size\n0.png,1,2")
    check_devices(
        config_of("regression", data), {"target": np.float32(np.random.default_rng(1).normal(size=(16, 2)))}, accumulate
    )


def test_a_run(tmp_path):
    """On eight devices, in micro-batches, one picture missing; its scores are scikit-learn's of the model that it saved."""
    targets = np.array([[20 + 5 * i, (i % 3) / 10] for i in range(8)])
    text = "file,age,size\n" + "".join(f"{i}.png,{age},{size}\n" for i, (age, size) in enumerate(targets))
    data = write_table(tmp_path / "data", text, missing=("3.png",))
    keys = {"loss.mean": (37.5, 0.1), "loss.std": (12.0, 0.08), "checkpoint.best": "regression/mae_size"}
    config = config_of("regression", data, **keys, **{"checkpoint.best_mode": "min", "optimizer.accumulate": 2})
    summary = train(config, tmp_path / "run")
    assert summary["regression/examples"] == 7 and summary["train/broken"] > 0 and summary["train/skipped"] == 0
    model, variables = vj.load_pretrained(tmp_path / "run")
    transform = vj.preprocessing(tmp_path / "run")

    def expected(folder, shown):
        images = np.stack([transform(folder / f"{i}.png") for i in shown])
        predicted = np.asarray(model.apply(variables, images)) * config.loss.std + config.loss.mean
        each = mean_absolute_error(targets[shown], predicted, multioutput="raw_values")
        return {
            "regression/r2": r2_score(targets[shown], predicted),
            "regression/mae": each.mean(),
            "regression/mae_age": each[0],
            "regression/mae_size": each[1],
        }

    for name, value in expected(tmp_path / "data", [0, 1, 2, 4, 5, 6, 7]).items():
        assert summary[name] == pytest.approx(value, rel=1e-4), name
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["derived"]["target_names"] == list(NAMES) and record["derived"]["activation"] == "identity"

    text = "size,file,age\n" + "".join(f"{size},{i}.png,{age}\n" for i, (age, size) in enumerate(targets))
    config.data.eval = write_table(tmp_path / "test", text)  # columns in another order, every picture there
    found = evaluate(config, tmp_path / "run", "best")
    assert found["regression/examples"] == 8 and np.isfinite(found["regression/r2"])
    found = evaluate(config, tmp_path / "run")
    for name, value in expected(tmp_path / "test", list(range(8))).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_a_run_does_not_go_on_with_other_targets(tmp_path):
    """Not even where other data are accepted; in another order they are the same."""
    data, run = write_table(tmp_path / "data", "file,age,size\n0.png,1,2\n1.png,3,4"), tmp_path / "run"
    table = tmp_path / "data" / "table.csv"
    train(config_of("regression", data, duration="3 steps"), run)
    config = config_of("regression", data)
    table.write_text("file,age,sizes\n0.png,1,2\n1.png,3,4")
    with pytest.raises(ConfigError, match=r"training data are not those .*table\.csv' had 2 rows"):
        train(config, run)
    with pytest.raises(ConfigError, match=r"config\.data\.train=.* has no number 'size', which the model learns"):
        train(config, run, accept=["data", "duration"])
    table.write_text("size,file,age\n2,0.png,1")
    train(config, run, accept=["data", "duration"])
    assert json.loads((run / "config.json").read_text())["derived"]["target_names"] == ["age", "size"]
