import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation import linear_probe, make_evaluator
from vision_jax.evaluation.linear_probe import draw_shots, moments
from vision_jax.training.partitioning import make_mesh


def digits(split):
    examples = list(open_source(f"digits:{split}"))
    features = np.stack([example["image"][..., 0].ravel() for example in examples]).astype(np.float32) / 255
    return features, np.array([example["label"] for example in examples], np.int32)


def evaluator(config, devices=8, axes=None, **settings):
    """The evaluator on the digits' pixels, given instead of extracted."""
    config.evals.linear_probe, config.mesh = settings, axes or {}
    mesh = make_mesh(config, jax.devices()[:devices])
    made = make_evaluator("linear_probe", config.evals.linear_probe, None, config, mesh)
    made.extract = lambda variables, spec: digits(spec.removeprefix("digits:"))
    return made


def sklearn_fit(features, labels, l2):
    model = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=10000)
    return model.fit(features.astype(np.float64), labels)


@pytest.mark.parametrize("devices, axes, scratch", [(1, {}, 2**26), (8, {"fsdp": 2, "tensor": 2}, 1000)])
def test_the_optimum_is_scikit_learns(devices, axes, scratch, config, monkeypatch):
    monkeypatch.setattr(linear_probe, "SCRATCH", scratch)  # 1000: about 100 examples a chunk
    made = evaluator(config, devices, axes)
    features, labels = digits("test")
    data = made.on_devices(features, labels)
    assert len(data[0]) == (1 if scratch > 1000 else 4)
    zeros = made.zeros(features)
    for l2, tolerance in ((1.0, 1e-5), (0.01, 3e-4)):
        expected = sklearn_fit(features, labels, l2)
        params = made.fit(zeros, data, l2)
        np.testing.assert_allclose(params["kernel"], expected.coef_.T, atol=tolerance)
        loss, top1 = made.score(params, data)
        assert loss == pytest.approx(log_loss(labels, expected.predict_proba(features)), rel=1e-3)
        assert top1 == pytest.approx(expected.score(features, labels), abs=0.003)

    weights = (np.arange(len(labels)) < 100).astype(np.float32)  # examples of weight 0 do not exist
    params = made.fit(zeros, (*data[:2], made.rows(weights)), 0.1)
    np.testing.assert_allclose(params["kernel"], sklearn_fit(features[:100], labels[:100], 0.1).coef_.T, atol=1e-4)

    diverged = made.on_devices(np.full_like(features, np.nan), labels)
    assert made.score(made.fit(zeros, diverged, 0.1), diverged)[1] == 0


def test_the_sweep_and_few_shots_are_loops_over_scikit_learn(config):
    """One example in five chooses; the best by accuracy is fitted to all. From a few shots, one fit with `shots_l2`."""
    l2s = (3.0, 0.3, 0.01)
    made = evaluator(config, devices=1, l2=l2s, shots=(10,), shots_l2=0.1)
    metrics = made.run({})
    assert tuple(metrics) == made.metrics
    (features, labels), (test_features, test_labels) = digits("train"), digits("test")

    def top1(chosen, l2):
        scaler = StandardScaler().fit(features[chosen])
        model = sklearn_fit(scaler.transform(features[chosen]), labels[chosen], l2)
        return model.score(scaler.transform(test_features), test_labels)

    scaled = StandardScaler().fit_transform(features)
    held_out = np.random.default_rng(0).permutation(len(labels)) % 5 == 0
    fitted = {l2: sklearn_fit(scaled[~held_out], labels[~held_out], l2) for l2 in l2s}
    accuracy = {l2: model.score(scaled[held_out], labels[held_out]) for l2, model in fitted.items()}
    best = max(accuracy, key=accuracy.get)
    assert len(set(accuracy.values())) == 3 and held_out.sum() == 288
    assert metrics["l2"] == best
    assert metrics["top1"] == pytest.approx(top1(slice(None), best), abs=0.003)
    drawn = draw_shots(labels, 10)
    np.testing.assert_array_equal(np.bincount(labels[drawn]), 10)
    assert metrics["10shot_top1"] == pytest.approx(top1(drawn, 0.1), abs=0.003)
    assert metrics["10shot_top1"] < metrics["top1"]


def test_shots_of_a_small_class_are_all_it_has():
    labels = np.array([2, 0, 2, 2, 0, 5, 2])
    one, three = (draw_shots(labels, n) for n in (1, 3))
    assert sorted(labels[one]) == [0, 2, 5]
    assert sorted(labels[three]) == [0, 0, 2, 2, 2, 5] and len(set(three)) == 6
    assert set(one) <= set(three)


def test_constant_features_are_not_blown_up():
    x = np.random.default_rng(0).normal(5, 3, (1000, 3)).astype(np.float32)
    x[:, 1] = 0.1
    x[:, 2] = 0
    mean, std = moments(x)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, [x[:, 0].std(dtype=np.float64), 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    "key, value",
    [("l2", ()), ("l2", (0.0,)), ("l2", ("1",)), ("shots_l2", -1.0), ("max_iter", 0), ("shots", (0,)), ("shots", (144,)), ("shots", (1.5,))],
)  # fmt: skip
def test_bad_settings_are_refused(key, value, config):
    with pytest.raises(ConfigError, match=rf"evals\.linear_probe\..*{key}"):
        evaluator(config, **{key: value})
