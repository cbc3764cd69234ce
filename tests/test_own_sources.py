"""Sources, readers and models of one's own that leave out what others have."""

import pickle

import jax
import numpy as np
import pytest
from own import config_of

from vision_jax import parts
from vision_jax.data import open_source
from vision_jax.data.pipeline import train_batches
from vision_jax.data.reading import Field
from vision_jax.errors import ConfigError
from vision_jax.training.setup import prepare


class Bare:
    """What a source must have and no more."""

    def __init__(self, example):
        self.example = example

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.example


def test_what_a_source_leaves_out_has_a_usual_answer():
    image = np.zeros((8, 8, 3), np.uint8)
    with parts.given({"bare": Bare({"image": image})}):
        source = open_source("given:bare")
        assert (source.num_classes, source.class_names, source.target_names, source.labels) == (0, (), (), [])
        assert source[2]["name"] == "given:bare[2]" and len(source) == 3 and len(open_source("given:bare[:40%]")) == 1
        for index in (-1, 3):
            with pytest.raises(IndexError):
                source[index]
    named = open_source("own:Blobs:10")
    assert (named.num_classes, named.class_names, len(named)) == (2, ("dark", "light"), 10)
    assert len(pickle.loads(pickle.dumps(named))) == 10


@pytest.mark.parametrize("example", [3, (np.zeros((8, 8, 3)), 1), {"picture": 3}], ids=["number", "pair", "no image"])
def test_an_example_that_is_none_is_named(example):
    message = "'given:bare': example 1 is no dictionary with an 'image'"
    with parts.given({"bare": Bare(example)}), pytest.raises(ConfigError, match=message):
        open_source("given:bare")[1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3, np.float32), r"have 'depth' as float32\[2\] an example, and its reader gave float32\[3\]"),
        (np.zeros(2, complex), r"gave complex128\[2\]"),
        (None, r"gave object\[\]"),
        ([1, 2], ""),
    ],
)
def test_an_array_that_does_not_fit_its_field(value, words):
    c, fields = config_of(), {"depth": Field((2,), np.float32)}

    def first():
        with train_batches(
            c, seed=0, start_step=0, fields=fields, reader=lambda example, rng: {"depth": value}
        ) as made:
            return next(made)["depth"]

    if words:
        with pytest.raises(ConfigError, match=words):
            first()
    else:
        np.testing.assert_array_equal(first(), np.tile(np.float32([1, 2]), (8, 1)))


def test_a_task_that_asks_for_what_its_own_model_has_not():
    c = config_of()
    c.model = {"name": "own:Net", "width": 4}
    variables = jax.eval_shape(prepare(c).task.init, jax.random.key(0), {"image": np.zeros((1, 8, 8, 3), np.uint8)})
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, 2)
    c.model = {"num_classes": 1}
    with pytest.raises(ConfigError, match="num_classes=1 is fewer than the 2 classes"):
        prepare(c)
