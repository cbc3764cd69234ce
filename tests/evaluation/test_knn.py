import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vision_jax.errors import ConfigError
from vision_jax.evaluation import knn, make_evaluator
from vision_jax.training.partitioning import make_mesh

MESHES = [(1, {}), (8, {}), (8, {"fsdp": 2, "tensor": 2})]


def clusters(rng, count, centres, noise=1.5):
    labels = rng.integers(0, len(centres), count).astype(np.int32)
    return (centres[labels] + noise * rng.normal(size=(count, centres.shape[1]))).astype(np.float32), labels


def evaluator(config, bank, queries, devices=8, axes=None, **settings):
    """The evaluator on features that are given instead of extracted."""
    config.evals.knn, config.mesh = settings, axes or {}
    made = make_evaluator("knn", config.evals.knn, None, config, make_mesh(config, jax.devices()[:devices]))
    made.extract = lambda variables, spec: {"digits:train": bank, "digits:test": queries}[spec]
    return made


def votes(bank, queries, k, temperature):
    """[q, 10] by scikit-learn."""
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature))
    bank_features, bank_labels = bank
    probabilities = model.fit(bank_features.astype(np.float64), bank_labels).predict_proba(
        queries[0].astype(np.float64)
    )
    full = np.zeros((len(probabilities), 10))
    full[:, model.classes_] = probabilities
    return full


@pytest.mark.parametrize("scratch", [2**26, 700])
@pytest.mark.parametrize("devices, axes", MESHES)
@pytest.mark.parametrize("k, temperature", [(1, 0.07), (20, 0.07), (50, 0.005)])
def test_agrees_with_scikit_learn(k, temperature, devices, axes, scratch, config, monkeypatch):
    monkeypatch.setattr(knn, "SCRATCH", scratch)  # 700: chunks smaller than k, or of one row a device
    rng = np.random.default_rng(k)
    centres = rng.normal(size=(10, 6))
    bank, queries = clusters(rng, 203, centres), clusters(rng, 101, centres)
    metrics = evaluator(config, bank, queries, devices, axes, k=k, temperature=temperature).run({})
    expected = votes(bank, queries, k, temperature)
    own = np.take_along_axis(expected, queries[1][:, None], 1)
    rank = (expected > own).sum(1)
    assert metrics["top1"] == pytest.approx(np.mean((rank < 1) & (own[:, 0] > 0)))
    assert metrics["top5"] == pytest.approx(np.mean((rank < 5) & (own[:, 0] > 0)))
    assert metrics["top1"] < 1


def test_a_class_without_a_vote_is_never_right(config):
    bank = np.eye(2, dtype=np.float32), np.array([7, 8], np.int32)
    queries = np.eye(2, dtype=np.float32), np.array([0, 7], np.int32)
    assert evaluator(config, bank, queries, k=2).run({}) == {"top1": 0.0, "top5": 0.5}


def test_a_diverged_model_knows_nothing(config):
    bank = np.full((30, 4), np.nan, np.float32), np.arange(30, dtype=np.int32) % 10
    assert evaluator(config, bank, bank).run({}) == {"top1": 0.0, "top5": 0.0}


def test_no_device_holds_all_similarities(config, monkeypatch):
    monkeypatch.setattr(knn, "SCRATCH", 2**14)
    rng = np.random.default_rng(0)
    bank, queries = ((rng.normal(size=(n, 4)).astype(np.float32), np.zeros(n, np.int32)) for n in (8192, 1024))
    made = evaluator(config, bank, queries)
    count, memory = made.count, []

    def measured(*arguments):
        memory.append(count.lower(*arguments).compile().memory_analysis())
        return count(*arguments)

    made.count = measured
    assert made.run({})["top1"] == 1
    (used,) = memory
    assert 0 < used.temp_size_in_bytes < 4 * 128 * 8192 / 4  # a device's own 128 queries against the bank
    assert used.argument_size_in_bytes < 2 * 4 * (8192 + 1024) * 5 / 8


@pytest.mark.parametrize("settings", [{"k": 0}, {"k": 1438}, {"temperature": 0.0}])
def test_bad_settings_are_refused(settings, config):
    with pytest.raises(ConfigError, match=rf"evals\.knn\.{next(iter(settings))} must"):
        evaluator(config, None, None, **settings)


def test_pixels_of_digits(config, pixels):
    metrics = make_evaluator("knn", config.evals.knn, pixels, config, make_mesh(config)).run({"scale": jnp.float32(1)})
    assert metrics["top1"] > 0.95 and metrics["top5"] > 0.99
