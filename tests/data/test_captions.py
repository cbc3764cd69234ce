import itertools

import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.data.captions import TextReader, caption_tokens
from vision_jax.data.images import BrokenImage
from vision_jax.data.pipeline import train_batches
from vision_jax.data.reading import Field, picture_fields, transform_of
from vision_jax.errors import ConfigError


def config_of(train, templates=(), **data):
    c = base_config()
    c.task, c.batch_size = "contrastive", 6
    c.data = dict(train=train, templates=templates, image_size=16, context_length=64, **data)
    return c


def batches(config, steps, start_step=0, **share):
    source = open_source(config.data.train)
    fields = picture_fields(config.data) | {"tokens": Field((config.data.context_length,), np.int32)}
    reader = TextReader(transform_of(config.data, train=True), caption_tokens(config.data, source))
    made = train_batches(config, seed=3, start_step=start_step, source=source, fields=fields, reader=reader, **share)
    with made:
        return list(itertools.islice(made, steps))


def text_of(row):
    return bytes(int(token) - 1 for token in row if 1 <= token <= 256).decode()


def test_a_picture_comes_with_one_of_its_own_captions():
    source = open_source("shapes:train")
    seen = set()
    for batch in batches(config_of("shapes:train"), 5):
        for id, tokens in zip(batch["id"], batch["tokens"], strict=True):
            captions = source[id]["captions"]
            assert text_of(tokens) in captions
            seen.add(captions.index(text_of(tokens)))
    assert seen == {0, 1}


def test_templates_are_filled_with_the_class_s_name():
    templates = ("the digit {}", "{} it is")
    labels, texts = open_source("digits:train").labels, set()
    for batch in batches(config_of("digits:train", templates), 8):
        for id, tokens in zip(batch["id"], batch["tokens"], strict=True):
            assert text_of(tokens) in {template.format(labels[id]) for template in templates}
            texts.add(text_of(tokens))
    assert len(texts) > 12


def test_classes_beside_captions_need_no_templates():
    class Both:
        num_classes, class_names = 2, ("cat", "dog")

        def __getitem__(self, index):
            return {"image": np.zeros((4, 4, 3), np.uint8), "label": 0, "name": "x", "captions": ("a tabby",)}

    tokens = caption_tokens(config_of("shapes:train").data, Both())
    assert text_of(tokens(Both()[0], np.random.default_rng(0))) == "a tabby"
    with pytest.raises(ConfigError, match=r"data\.templates"):
        caption_tokens(config_of("digits:train").data, open_source("digits:train"))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_texts_after_a_restart_and_for_any_processes(workers):
    config = config_of("shapes:train", workers=workers)
    whole = batches(config, 4)
    for restarted, batch in zip(batches(config, 2, start_step=2), whole[2:], strict=True):
        np.testing.assert_array_equal(restarted["tokens"], batch["tokens"])
    for rows in (np.arange(config.batch_size)[half::2] for half in range(2)):
        for share, batch in zip(batches(config, 4, rows=rows), whole, strict=True):
            np.testing.assert_array_equal(share["tokens"], batch["tokens"][rows])


def test_an_example_without_a_caption_is_none():
    tokens = caption_tokens(config_of("shapes:train").data, open_source("shapes:train"))
    with pytest.raises(BrokenImage, match="no caption"):
        tokens({"name": "x", "label": 0, "captions": ()}, np.random.default_rng(0))


def test_a_text_that_is_too_long_is_cut_or_named():
    example = {"name": "scene 7", "label": 0, "captions": ("a word " * 20,)}
    cut = caption_tokens(config_of("shapes:train").data, open_source("shapes:train"))
    assert cut(example, np.random.default_rng(0))[-1] == 258
    raising = caption_tokens(config_of("shapes:train", long_texts="raise").data, open_source("shapes:train"))
    with pytest.raises(ConfigError, match=r"scene 7.*'a word.*142 tokens.*64.*data\.long_texts"):
        raising(example, np.random.default_rng(0))


def test_pictures_with_labels_by_default():
    with train_batches(config_of("digits:train"), seed=0, start_step=0) as made:
        assert set(next(made)) == {"image", "label", "mask", "id"}
