import pytest

from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.planning.outlines import Outline, outline_source


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", slice(None)),
        ("train[:99%]", slice(None, 49_500)),
        ("train[51:]", slice(51, None)),
        ("train[100:300]", slice(100, 300)),
        ("train[-100:]", slice(-100, None)),
        ("train[99%:]", slice(49_500, None)),
        ("train[60000:]", slice(60_000, None)),
    ],
)
def test_parts_of_known_sets(split, rows):
    source = outline_source(f"tfds:cifar10:{split}", tfds_dir="/nonexistent")
    assert len(source) == len(range(50_000)[rows])
    assert source.num_classes == len(source.class_names) == 10


def test_sums_mixes_and_shards():
    assert len(outline_source("tfds:cifar10:train+test", tfds_dir="/nonexistent")) == 60_000
    mix = (("tfds:cifar10:train", 1.0), ("tfds:cifar10:test", 2.0))
    assert len(outline_source(mix, tfds_dir="/nonexistent")) == 60_000
    shards = outline_source("wds:nowhere/{000..123}.tar")
    assert (len(shards), shards.num_classes) == (1_240_000, 0)


def test_data_that_is_there_is_opened():
    source = outline_source("digits:train")
    assert len(source) == len(open_source("digits:train")) and source[0]["image"].shape == (8, 8, 3)


def test_what_is_given_is_believed():
    assert outline_source("folder:nowhere", examples=7, classes=3) == Outline(7, 3)
    assert outline_source("digits:train", classes=12).num_classes == 12
    assert len(outline_source("tfds:cifar10:train", tfds_dir="/nonexistent", examples=9)) == 9


@pytest.mark.parametrize("spec", ["folder:nowhere", "tfds:cifar10:trian", "wds:nowhere/*.tar", "tfds:nothing:train"])
def test_unknown_data_needs_to_be_described(spec):
    with pytest.raises(ConfigError, match="--examples=N --classes=N"):
        outline_source(spec, tfds_dir="/nonexistent")
