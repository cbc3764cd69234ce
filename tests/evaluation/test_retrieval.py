import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.evaluation import evaluation, make_evaluator, make_evaluators, retrieval
from vision_jax.training.partitioning import make_mesh

# Sixteen unit vectors whose products are exact, so that ties are ties; the last row is not a number, of
# the sign that sorts last.
CORNERS = np.array([*itertools.product((-0.5, 0.5), repeat=4), (-np.nan,) * 4], np.float32)
MESHES = [(1, {}), (8, {}), (8, {"fsdp": 2, "tensor": 2})]


class Corners:
    """A task whose texts "5 whatever" and whose pictures with that number in a corner both are the corner's vector."""

    evaluations = ("retrieval",)

    def tokenizer(self, texts, truncate=True):
        return np.array([[int(text.split()[0]), sum(text.encode())] for text in texts], np.int32)

    def image_embeddings(self, variables, batch):
        return variables["corners"][batch["image"][:, 0, 0, 0]]

    def text_embeddings(self, variables, tokens):
        return variables["corners"][tokens[:, 0]]


class Pictures:
    """Examples (corner, captions); a corner of None is a broken picture, one of OSError a missing file."""

    num_classes, class_names = 0, ()

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        corner, captions = self.examples[index]
        if corner is OSError:
            raise OSError("gone")
        image = b"no picture" if corner is None else np.full((8, 8, 3), corner, np.uint8)
        return {"image": image, "label": 0, "name": f"picture {index}", "captions": captions}


def by_hand(queries, owners, bank, bank_owners, k):
    """Recall at k, by sorting a list for each query."""
    right = 0
    for query, owner in zip(queries, owners, strict=True):
        similarities = [float(query @ row) for row in bank]
        order = sorted(range(len(bank)), key=lambda j: (not np.isnan(similarities[j]), -similarities[j], j))
        right += any(bank_owners[j] == owner and not np.isnan(similarities[j]) for j in order[:k])
    return right / len(queries)


def evaluator(examples, config, monkeypatch, devices=8, axes=None):
    config.mesh = axes or {}
    monkeypatch.setattr(evaluation, "open_source", lambda spec, tfds_dir: Pictures(examples))
    mesh = make_mesh(config, jax.devices()[:devices])
    return make_evaluator("retrieval", config.evals.retrieval, Corners(), config, mesh)


@functools.cache
def any_evaluator(devices, axes):
    """One for each mesh, so that what it has compiled serves all examples."""
    with pytest.MonkeyPatch.context() as patch:
        config = base_config()
        return evaluator([(0, ("0",)), (1, ("1",))], config, patch, devices, dict(axes))


def some_pictures(last):
    """(corner, corners of its captions) of each of a few pictures."""
    corner = st.integers(0, last)
    return st.lists(st.tuples(corner, st.lists(corner, min_size=1, max_size=4)), min_size=1, max_size=14)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([15, 16]).flatmap(some_pictures),
    st.sampled_from(MESHES[1:]),
    st.sampled_from([2**26, 60, 1]),
    st.randoms(use_true_random=False),
)
def test_recall_by_sorting(examples, mesh, scratch, random):
    """Several captions a picture, ties and NaN, in chunks of any size, on any mesh."""
    ids = sorted(random.sample(range(100), len(examples)))
    images = CORNERS[[corner for corner, _ in examples]], np.array(ids, np.int32)
    pairs = [(caption, id) for id, (_, captions) in zip(ids, examples, strict=True) for caption in captions]
    texts = CORNERS[[caption for caption, _ in pairs]], np.array([id for _, id in pairs], np.int32)
    made = any_evaluator(mesh[0], tuple(mesh[1].items()))
    with mock.patch.object(retrieval, "SCRATCH", scratch):
        for queries, bank in ((images, texts), (texts, images)):
            expected = [by_hand(*queries, *bank, k) for k in (1, 5, 10)]
            assert made.recall(queries, bank) == pytest.approx(expected)


def test_random_embeddings(config, monkeypatch):
    """More examples and dimensions, without ties, and chunks that end anywhere."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(83), rng.integers(1, 6, 83)).astype(np.int32)
    images = rng.normal(size=(83, 6))
    texts = images[owners] + rng.normal(size=(len(owners), 6))
    images, texts = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (images, texts))
    monkeypatch.setattr(retrieval, "SCRATCH", 500)
    made = any_evaluator(8, ())
    images = images, np.arange(83, dtype=np.int32)
    texts = texts, owners
    for queries, bank in ((images, texts), (texts, images)):
        expected = [by_hand(*queries, *bank, k) for k in (1, 5, 10)]
        assert made.recall(queries, bank) == pytest.approx(expected)
        assert 0.2 < expected[0] < expected[1] < expected[2] < 1


EXAMPLES = [
    (3, ("3 a dog", "4 a cat")),
    (None, ("5 a broken picture", "3 of a dog")),
    (4, ("5 a bird",)),
    (5, ()),
    (OSError, ("4 a missing file",)),
    (5, ("5 a bird", "9 a fish", "4 a cat")),
    *((i, (f"{i if i % 3 else 7} picture {i}", f"{(7 * i) % 16} mistaken")) for i in range(16)),
]


@pytest.mark.parametrize("devices, axes", MESHES)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_the_whole_evaluation(batch_size, devices, axes, config, monkeypatch, capsys):
    """Broken pictures and their captions are left out, so are pictures without a caption; padding counts for nothing."""
    config.evals.batch_size = batch_size
    made = evaluator(EXAMPLES, config, monkeypatch, devices, axes)
    metrics = made.run({"corners": jnp.asarray(CORNERS)})
    assert tuple(metrics) == made.metrics
    kept = [(id, *each) for id, each in enumerate(EXAMPLES) if each[0] not in (None, OSError) and each[1]]
    ids = [id for id, _, _ in kept]
    images = CORNERS[[corner for _, corner, _ in kept]]
    pairs = [(int(caption.split()[0]), id) for id, _, captions in kept for caption in captions]
    texts, owners = CORNERS[[row for row, _ in pairs]], [id for _, id in pairs]
    expected = {f"i2t_r{k}": by_hand(images, ids, texts, owners, k) for k in (1, 5, 10)}
    expected |= {f"t2i_r{k}": by_hand(texts, owners, images, ids, k) for k in (1, 5, 10)}
    assert metrics == pytest.approx(expected | {"examples": len(ids)}) and len(ids) == 19
    for way in ("i2t", "t2i"):
        assert 0 < metrics[f"{way}_r1"] < metrics[f"{way}_r5"] < metrics[f"{way}_r10"] < 1
    assert made.run({"corners": jnp.asarray(CORNERS)}) == metrics


def test_equal_texts_tie_in_the_source_s_order(config, monkeypatch):
    """Text embeddings that no product leaves exact: the first of two equal captions goes first all the same."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(17, 67))
    table = jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), jnp.float32)
    examples = [(i % 13, (f"{i % 13} the same",)) for i in range(39)]  # each corner three times
    metrics = evaluator(examples, config, monkeypatch).run({"corners": table})
    assert metrics["i2t_r1"] == metrics["t2i_r1"] == pytest.approx(13 / 39)
    assert metrics["i2t_r5"] == metrics["t2i_r5"] == 1


def test_a_diverged_model_finds_nothing(config, monkeypatch):
    metrics = evaluator(EXAMPLES, config, monkeypatch).run({"corners": jnp.full((17, 4), jnp.nan)})
    assert {value for name, value in metrics.items() if name != "examples"} == {0.0}


def test_no_recall_among_as_many_as_there_are(config, monkeypatch):
    examples = [(i, (f"{i}", f"{i} again")) for i in range(5)]
    made = evaluator(examples, config, monkeypatch)
    assert made.metrics == ("i2t_r1", "i2t_r5", "t2i_r1", "examples")
    assert made.run({"corners": jnp.asarray(CORNERS)}) == dict.fromkeys(made.metrics[:3], 1.0) | {"examples": 5}


def test_no_device_holds_all_similarities(config, monkeypatch):
    monkeypatch.setattr(retrieval, "SCRATCH", 2**14)
    rng = np.random.default_rng(0)
    bank, queries = ((rng.normal(size=(n, 4)).astype(np.float32), np.arange(n, dtype=np.int32)) for n in (8192, 1024))
    made = evaluator(EXAMPLES, config, monkeypatch)
    count, memory = made.count, []

    def measured(*arguments):
        memory.append(count.lower(*arguments).compile().memory_analysis())
        return count(*arguments)

    made.count = measured
    made.recall(queries, bank)
    (used,) = memory
    assert 0 < used.temp_size_in_bytes < 4 * 128 * 8192 / 4  # a device's own 128 queries against the bank


def test_pictures_with_classes_alone_are_refused(config):
    config.evals.retrieval.every = "1 epochs"
    config.data.templates = ("a {}.",)
    with pytest.raises(ConfigError, match=r"evals\.retrieval needs captions, and 'digits:test' has none"):
        make_evaluators(Corners(), config, make_mesh(config))


def test_too_few_pictures(config, monkeypatch):
    with pytest.raises(ConfigError, match=r"needs two pictures with captions, 'digits:test' has 1"):
        evaluator([(1, ("1", "2")), (2, ())], config, monkeypatch)
    made = evaluator([(None, ("1",)), (OSError, ("2",)), (None, ("2",)), (3, ())], config, monkeypatch)
    with pytest.raises(ConfigError, match="can be read"):
        made.run({"corners": jnp.asarray(CORNERS)})
