import pickle

import numpy as np
import pytest

from vision_jax.data import open_source
from vision_jax.data.classes import Labels, Renumbered, continued, missing, names_of, numbers_among, renumbered
from vision_jax.data.sources.share import Share
from vision_jax.errors import ConfigError


class Labelled:
    """A source of which nothing but the labels counts."""

    def __init__(self, class_names, labels, num_classes=None):
        self.class_names, self.labels = class_names, labels
        self.num_classes = len(class_names) if num_classes is None else num_classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": b"", "label": self.labels[index], "name": str(index)}


def delivered(source):
    return [source.class_names[source[i]["label"]] for i in range(len(source))]


@pytest.mark.parametrize(
    "theirs, ours, numbers",
    [
        ("abc", "abc", (0, 1, 2)),
        ("cab", "abc", (2, 0, 1)),
        ("ac", "abc", (0, 2)),
        ("ab", "abc", (0, 1)),
        ("aab", "aab", (0, 1, 2)),  # a name twice, but the same names
        ("b", "aab", (2,)),
        ("abc", "", (0, 1, 2)),  # by number
    ],
)
def test_numbers_by_name(theirs, ours, numbers):
    assert numbers_among(Labelled(tuple(theirs), []), tuple(ours), "it", "the model") == numbers


def test_sources_without_names_go_by_number():
    unnamed = Labelled((), [0, 1], num_classes=2)
    assert names_of(unnamed) == () and numbers_among(unnamed, ("a", "b", "c"), "it", "the model") == (0, 1)
    assert renumbered(unnamed, ("b", "a"), "it", "the run") is unnamed and missing(unnamed, ("a",)) == []
    assert names_of(Labelled(("a",), [], num_classes=2)) == ()  # not each of them has one
    assert names_of(Labels(2, ("a", "b"))) == ("a", "b")


@pytest.mark.parametrize(
    "theirs, ours, words",
    [
        (
            ("cat", "dogs"),
            ("cat", "dog"),
            "it has the class 'dogs', which the model does not know; did you mean 'dog'?",
        ),
        (("x", "y"), ("cat", "dog"), "the class 'x' (and 1 more), which the model does not know; known: cat, dog"),
        (("zz",), tuple(map(str, range(50))), "the class 'zz', which the model does not know; classes are compared by"),
        (("a", "b"), ("b", "a", "a"), "'a' stands for two of them"),
        (("a", "b", "a"), ("b", "a", "c"), "'a' stands for two of them"),
        (("a\x1b[2J\n",), ("b\n",), r"'a\x1b[2J\n', which the model does not know; known: b\n"),
    ],
)
def test_a_class_that_is_not_known_is_one_line(theirs, ours, words):
    with pytest.raises(ConfigError) as error:
        numbers_among(Labelled(theirs, []), ours, "it", "the model")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_source_with_other_numbers():
    source = Labelled(("c", "a"), [0, 0, 1, 0])
    found = pickle.loads(pickle.dumps(renumbered(source, ("a", "b", "c"), "it", "the run")))
    assert isinstance(found, Renumbered) and (found.num_classes, found.class_names) == (3, ("a", "b", "c"))
    assert len(found) == 4 and delivered(found) == ["c", "c", "a", "c"] and found.labels == [2, 2, 0, 2]
    assert [found[i]["name"] for i in range(4)] == ["0", "1", "2", "3"]
    assert renumbered(source, ("c", "a"), "it", "the run") is source
    assert renumbered(source, ("c", "a", "b"), "it", "the run").num_classes == 3  # and no class less
    assert Share(found, 0, 50).class_names == ("a", "b", "c") and delivered(Share(found, 0, 50)) == ["c", "c", "a"]
    assert missing(source, ("a", "b", "c", "d")) == ["b", "d"]


def test_a_run_goes_on_with_its_own_numbers():
    source = Labelled(("a", "b"), [0, 1])
    assert continued(source, (), "it", "the run") is source
    assert continued(source, ("a", "b"), "it", "the run") is source
    assert delivered(continued(source, ("b", "a"), "it", "the run")) == ["a", "b"]
    for names, words in (
        (("a", "b", "c"), "it lacks the class 'c', which the run knows"),
        (("a",), "it has the class 'b', which the run does not know"),
        (("a", "b2"), "it has the class 'b', which the run does not know"),
    ):
        with pytest.raises(ConfigError, match=words):
            continued(source, names, "it", "the run")


def write_folder(root, encode, classes):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.png").write_bytes(encode(np.full((8, 8, 3), 50 * number + i, np.uint8)))
    return f"folder:{root}"


@pytest.mark.parametrize("order", [1, -1])
def test_a_mix_has_the_classes_of_the_part_with_most(order, tmp_path, encode):
    few, all_of_them = (write_folder(tmp_path / name, encode, name) for name in ("ac", "abc"))
    mix = open_source(((few, 1), (all_of_them, 2))[::order])
    assert (mix.num_classes, mix.class_names) == (3, ("a", "b", "c"))
    for i in range(len(mix)):
        assert f"/{mix.class_names[mix[i]['label']]}/" in mix[i]["name"]
    other = write_folder(tmp_path / "other", encode, "ad")
    with pytest.raises(
        ConfigError, match=r"other' has the class 'd', which '.*abc', which has most classes of the mix,"
    ):
        open_source(((other, 1), (all_of_them, 2))[::order])
    with pytest.raises(ConfigError, match=r"must have the same classes: '.*' has 3, 'shapes:train' has 0"):
        open_source(((all_of_them, 1), ("shapes:train", 2))[::order])
