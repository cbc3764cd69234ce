"""What systems leave in folders is passed over, counted and said once; what is a picture and cannot be read is named."""

import numpy as np
import pytest
from PIL import Image

from vision_jax.data import open_source
from vision_jax.data.decoding import BrokenImage, decode
from vision_jax.data.sources.pictures import Pictures
from vision_jax.errors import ConfigError

HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 100


@pytest.fixture
def littered(tmp_path):
    """Two classes of two pictures each, and four things that are none."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for name in ("a.jpg", "b.jfif"):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / label / name, "JPEG")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    for name in ("__MACOSX/cat/._a.jpg", "cat/._a.jpg", "cat/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"junk")
    return tmp_path


@pytest.mark.parametrize("opened", [lambda path: open_source(f"folder:{path}"), lambda path: Pictures([path])])
def test_junk_is_counted_and_said_once(littered, opened, capsys):
    for _ in range(2):
        source = opened(littered)
        assert len(source) == 4 and all(source[i]["name"].endswith((".jpg", ".jfif")) for i in range(4))
    assert getattr(source, "class_names", ("cat", "dog")) == ("cat", "dog")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{littered}: passed over 5 hidden or system files (")


def test_pictures_of_other_formats_are_not_passed_over(littered, capsys):
    for name in ("cat/x.HEIC", "cat/y.heic", "dog/z.avif"):
        (littered / name).write_bytes(HEIC)
    with pytest.raises(ConfigError, match=r"x\.HEIC' and 1 more .*convert them to JPEG"):
        open_source(f"folder:{littered}")
    assert len(Pictures([littered])) == 4
    assert {f"{littered}: skipped {what}, a format" for what in ("2 .heic", "1 .avif")} <= {
        line.partition(" that is")[0] for line in capsys.readouterr().err.splitlines()
    }


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (HEIC, "HEIC, whatever its name"),
        (HEIC.replace(b"heic", b"avif"), "AVIF, whatever its name"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"text", "not an image in a known format"),
    ],
)
def test_what_is_no_picture_is_called_by_its_kind(data, what):
    with pytest.raises(BrokenImage, match=what):
        decode(data)
