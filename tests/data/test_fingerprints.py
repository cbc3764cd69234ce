import os
import shutil

import numpy as np
import pytest
from PIL import Image

from vision_jax.data import open_source
from vision_jax.data.fingerprints import changes, fingerprint


@pytest.fixture
def photos(tmp_path):
    for name, count in (("a", 2), ("b", 3)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def of(folder, spec="folder:{}"):
    return fingerprint(open_source(spec.format(folder)))


def test_the_same_data_elsewhere_are_the_same(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    assert of(photos) == of(tmp_path / "copy") and changes(of(photos), of(tmp_path / "copy")) == []


def add(folder):
    shutil.copy(folder / "a" / "0.png", folder / "a" / "9.png")


def cut(folder):
    (folder / "b" / "0.png").write_bytes((folder / "b" / "0.png").read_bytes()[:-1])


def rename_file(folder):
    (folder / "b" / "0.png").rename(folder / "b" / "00.png")


def rename_class(folder):
    (folder / "b").rename(folder / "c")


@pytest.mark.parametrize(
    "change, said",
    [
        (add, ["'a' had 2 files, ", "has 3 files, ", "5 examples then, 6 now"]),
        (cut, ["'b' had 3 files, "]),
        (rename_file, ["'b' had 3 files, "]),
        (rename_class, ["'b' is gone", "'c' is new"]),
    ],
)
@pytest.mark.parametrize("spec", ["folder:{}", "folder:{}[:100%]"])
def test_what_changed_is_told(photos, change, said, spec):
    before = of(photos, spec)
    change(photos)
    told = "; ".join(changes(before, of(photos, spec)))
    assert all(part in told for part in said)


def test_a_mix_and_a_share_are_their_parts(photos):
    pairs = ((f"folder:{photos}", 1.0), (f"folder:{photos}", 2.0))
    before, half = fingerprint(open_source(pairs)), of(photos, "folder:{}[:50%]")
    add(photos)
    assert changes(before, fingerprint(open_source(pairs))) and changes(half, of(photos, "folder:{}[:50%]"))


def test_embedded_sources_are_constant():
    assert fingerprint(open_source("digits:train")) == fingerprint(open_source("digits:train"))
    assert changes(fingerprint(open_source("digits:train")), fingerprint(open_source("digits:test")))
    assert changes(fingerprint(open_source("shapes:train")), fingerprint(open_source("shapes:test")))


def test_names_that_are_no_text(photos):
    os.mkdir(os.fsencode(photos / "c") + b"\xff")
    shutil.copy(photos / "a" / "0.png", os.fsencode(photos / "c") + b"\xff/0.png")
    assert "c\\xff" in "".join(of(photos)["parts"])


def test_sources_of_ones_own_need_no_method():
    class Own:
        class_names = ("x", "y")

        def __len__(self):
            return 3

    assert fingerprint(Own())["examples"] == 3 and set(fingerprint(Own())["parts"]) == {"x", "y"}
