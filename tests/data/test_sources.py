import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_jax import parts
from vision_jax.data import open_source
from vision_jax.errors import ConfigError


def test_digits_are_scikit_learns_each_once():
    from sklearn.datasets import load_digits

    splits = [open_source("digits:train"), open_source("digits:test")]
    assert [len(s) for s in splits] == [1437, 360]
    ours = [(e["image"], e["label"], e["name"]) for s in splits for e in (s[i] for i in range(len(s)))]
    assert len({name for _, _, name in ours}) == 1797
    data = load_digits()
    for image, label, name in ours[::97]:
        index = int(name.removeprefix("digits[").removesuffix("]"))
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and label == data.target[index]
        np.testing.assert_allclose(image.mean(-1) * 16 / 255, data.images[index], atol=0.04)


def test_every_digit_is_in_both_splits():
    for split in ("train", "test"):
        source = open_source(f"digits:{split}")
        counts = np.bincount([source[i]["label"] for i in range(len(source))])
        assert source.num_classes == len(source.class_names) == len(counts) == 10
        assert counts.min() > 0.7 * counts.mean()


def test_folder_sorts_naturally_and_reads_the_files(folder):
    (folder / "class2" / ".hidden").write_text("")
    (folder / "README.txt").write_text("about")
    source = open_source(f"folder:{folder}")
    assert source.class_names == ("class2", "class10", "zebra") and source.num_classes == 3 and len(source) == 11
    assert [source[i]["label"] for i in range(11)] == [0] * 4 + [1] * 5 + [2] * 2
    example = source[5]
    assert example["name"] == str(folder / "class10" / "1.png")
    assert example["image"] == (folder / "class10" / "1.png").read_bytes()
    with pytest.raises(IndexError):
        source[11]


def test_folder_sorts_file_names_naturally(tmp_path, encode):
    (tmp_path / "a").mkdir()
    for name in ("x10.png", "x9.png", "x1.png", "y.PNG"):
        (tmp_path / "a" / name).write_bytes(encode(np.zeros((2, 2, 3), np.uint8)))
    source = open_source(f"folder:{tmp_path}")
    assert [source[i]["name"].rpartition("/")[2] for i in range(4)] == ["x1.png", "x9.png", "x10.png", "y.PNG"]


def _broken_folders(root, folder):
    (root / "empty").mkdir()
    (root / "no_class").mkdir()
    (root / "no_class" / "readme.txt").write_text("")
    (root / "empty_class" / "cat").mkdir(parents=True)
    (root / "flat").mkdir()
    (root / "flat" / "1.jpg").write_bytes(b"")
    (folder / "zebra" / "notes.txt").write_text("")
    (root / "nested" / "train" / "cat").mkdir(parents=True)
    (root / "file").write_text("")
    return {
        "": "names no folder",
        f"{root}/absent": f"'{root}/absent' does not exist",
        f"{root}/file": "is not a folder",
        f"{root}/empty": f"'{root}/empty' is empty",
        f"{root}/no_class": "has no sub-folders",
        f"{root}/empty_class": f"'{root}/empty_class/cat' is empty",
        f"{root}/flat": "outside of class folders, such as '1.jpg'",
        f"{folder}": f"'{folder}/zebra/notes.txt' is not an image file",
        f"{root}/nested": f"holds a folder 'cat'; expected image files only; did you mean 'folder:{root}/nested/train'?",
    }


def test_folder_errors_name_the_path_and_what_was_expected(tmp_path, folder):
    for path, message in _broken_folders(tmp_path, folder).items():
        with pytest.raises(ConfigError) as error:
            open_source(f"folder:{path}")
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("digts:train", "no such data source: 'digts:train'"),
        ("digits:tset", "did you mean 'test'?"),
        ("digits", "no split ''"),
        (3, "no such data source: 3"),
        ((), "at least one"),
        (("digits:train", "digits:test"), "list of (source, weight) pairs"),
        ((("digits:train", 0),), "must be a positive number, got 0"),
        ((("digits:train", float("inf")),), "must be a positive number"),
        ("tfds:cifar10", "must read 'tfds:NAME:SPLIT'"),
    ],
)
def test_bad_specifications(spec, message):
    with pytest.raises(ConfigError) as error:
        open_source(spec)
    assert message in str(error.value)


def test_mix_is_its_parts_in_a_row(folder):
    mix = open_source(((f"folder:{folder}", 1), (f"folder:{folder}", 3)))
    part = open_source(f"folder:{folder}")
    assert len(mix) == 22 and mix.class_names == part.class_names and mix.weights == (1.0, 3.0)
    assert [mix[i] for i in range(22)] == 2 * [part[i] for i in range(11)]
    for index in (-1, 22):
        with pytest.raises(IndexError):
            mix[index]


def test_mix_of_different_classes_is_refused(folder):
    with pytest.raises(ConfigError, match=r"'folder:.*' has the class 'class2' \(and 2 more\), which 'digits:train'"):
        open_source((("digits:train", 1), (f"folder:{folder}", 1)))


def test_sources_survive_pickling(folder):
    for spec in ("digits:test", f"folder:{folder}", ((f"folder:{folder}", 1), (f"folder:{folder}", 2))):
        source = open_source(spec)
        copy = pickle.loads(pickle.dumps(source))
        assert len(copy) == len(source)
        np.testing.assert_equal(copy[7], source[7])


def test_opening_imports_only_what_the_source_needs(folder):
    code = (
        "import sys; from vision_jax.data import open_source, pipeline; "
        f"open_source('folder:{folder}')[0]; "
        "print([m for m in ('jax', 'grain', 'tensorflow', 'tensorflow_datasets', 'sklearn', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_share_is_the_first_of_each_class():
    whole, part = open_source("digits:train"), open_source("digits:train[:10%]")
    labels = np.array([whole[i]["label"] for i in range(len(whole))])
    expected = np.sort(
        np.concatenate([np.flatnonzero(labels == c)[: round((labels == c).sum() / 10)] for c in range(10)])
    )
    assert [part[i]["name"] for i in range(len(part))] == [whole[i]["name"] for i in expected]
    assert part.num_classes == 10 and part.class_names == whole.class_names


class Labelled:
    num_classes, class_names = 4, ("a", "b", "c", "d")

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": b"", "label": self.labels[index], "name": str(index)}


def names(source):
    return [source[i]["name"] for i in range(len(source))]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 99))
def test_two_shares_are_the_whole_and_nothing_twice(labels, percent):
    """Also of classes with one example, which lies in the first share."""
    with parts.given({"it": Labelled(labels)}):
        whole, first = open_source("given:it"), open_source(f"given:it[:{percent}%]")
        try:
            rest = names(open_source(f"given:it[{percent}%:]"))
        except ConfigError as error:  # of classes so small that the first share is all of them
            assert "is none" in str(error)
            rest = []
    assert sorted(names(first) + rest, key=int) == names(whole) and not set(names(first)) & set(rest)
    assert {first[i]["label"] for i in range(len(first))} == set(labels)
    assert names(first) == sorted(names(first), key=int) and rest == sorted(rest, key=int)


@pytest.mark.parametrize("percent", [1, 80])
def test_shares_of_digits_and_of_folders(percent, folder):
    for spec in ("digits:train", f"folder:{folder}"):
        whole, first, rest = (open_source(f"{spec}{part}") for part in ("", f"[:{percent}%]", f"[{percent}%:]"))
        assert sorted(names(first) + names(rest)) == sorted(names(whole))
        assert len(set(names(whole))) == len(whole) and first.class_names == rest.class_names == whole.class_names
        assert names(open_source(f"{spec}[0%:100%]")) == names(whole)
        middle = min(percent + 50, 100)
        between = set(names(rest)) & set(names(open_source(f"{spec}[:{middle}%]")))
        assert set(names(open_source(f"{spec}[{percent}%:{middle}%]"))) == between


@pytest.mark.parametrize("part", ["[50%:50%]", "[60%:50%]", "[:101%]", "[100%:]"])
def test_shares_that_are_none(part):
    with pytest.raises(ConfigError, match=r"START%:STOP%"):
        open_source(f"digits:train{part}")


def test_a_share_of_a_folder_has_every_class(tmp_path):
    for name, count in (("cat", 10), ("dog", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.png").write_bytes(b"")
    part = open_source(f"folder:{tmp_path}[:20%]")
    assert [(part[i]["label"], part[i]["name"][-5:]) for i in range(len(part))] == [
        (0, "0.png"),
        (0, "1.png"),
        (1, "0.png"),
    ]
    with pytest.raises(ConfigError, match=r"\[0%:0%\]"):
        open_source(f"folder:{tmp_path}[:0%]")
