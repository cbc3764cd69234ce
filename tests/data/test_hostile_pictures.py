"""Pictures, shards and lists that ask for too much, made and mutated by experiments/faults."""

import importlib
import io
import pathlib
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from vision_jax import limits
from vision_jax.config import base_config
from vision_jax.data import augment, decoding, images, open_source, pipeline, reading
from vision_jax.data.decoding import BrokenImage, decode, read_picture
from vision_jax.data.sources.pictures import Pictures
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.errors import ConfigError, RunError

FAULTS = pathlib.Path(__file__).parents[2] / "experiments" / "faults"


def load(name: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAULTS)
        return importlib.import_module(name)


hostile, picture_mutations = load("hostile_pictures"), load("picture_mutations")

# Those that take a second or more to make or to read; `python experiments/faults/hostile_pictures.py` measures all.
SLOW = (
    "9,400 x 9,400", "7,000 x 7,000", "13,000 x", "a panorama", "250 MiB", "2,000,000 empty chunks", "1,000,000 empty",
    "colour profile", "6,500 x", "100 MiB of junk", "WebP, 4,200", "60,000 tags", "40 pax headers", "300,000",
    "20,000 pairs", "200,000", "100 MiB of pax", "8,000 captions", "10 MB of random", "9 MB of lig", "4 GB", "10 GB", "16 MB of empty", "1,500,000 symbols", "3,000,000 names", "15 MB of short", "100 MB of", "damaged text",
)  # fmt: skip
# What is read all the same; everything else must be refused.
READ = {
    "PNG, 9,400 x 9,400 RGB", "PNG, 7,000 x 7,000 RGBA", "PNG, 7,000 x 7,000 of 16-bit grey", "thin: 1 x 30,000",
    "PNG, 9,400 x 9,400 palette", "thin: 30,000 x 1", "a panorama of 16,382 x 3,628", "a sparse PNG of 250 MiB",
    "JPEG, 9,400 x 9,400 baseline", "JPEG, 6,500 x 6,500 progressive", "WebP, 4,200 x 4,200", "GIF of 3,000 frames",
    "TIFF whose 60,000 tags share 4 MiB", "TIFF whose directory follows itself", "TIFF of 20,000 directories",
    "a folder whose links lead round in a circle", "pax header of 150,000 records", "300,000 pax headers",
    "40 pax headers of 140,000 records", "20,000 pairs, one of whose names has 1 MiB", "200,000 empty members",
    "members that are links, devices, pipes and folders", "a picture of 8 GB, with holes", "names of control characters",
    "a caption of 2 GB, with holes", "JSON of 900 kB, deeply nested and of long numbers", "a pipe for an index beside it",
    "an index beside it that points out of it", "an index beside it that nests deeply", "100 MiB of pax headers, after a pair",
    "an index beside it with offsets that overflow", "an index beside it with escape sequences for a reason",
    "an index beside it with a reason without names", "an index beside it with a reason of 100,000 names",
    "an index beside it with nested names", "an index beside it with an infinite count", "200,000 times one shard",
    "an index beside it with fewer than no pairs", "an index beside it with keys of 2^40 bytes",
    "curation by 10 MB of random queries of 24 letters", "curation by 10 MB of random queries of 7 letters",
    "curation by 10 MB of random queries of 900 letters",
    "curation by queries that begin each other, of a caption of 1 MB",
    "a caption: 10 MB of combining marks on a letter", "a caption: 100 MB of one word", "a caption: 50 MB of damaged text",
}  # fmt: skip


# pytest undoes what keeps Pillow from printing its warnings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture(autouse=True)
def no_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def hangs(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def reads(kind: str, path) -> str:
    """What is said of a file; whatever is no line is raised."""
    if kind in ("vocabulary", "text"):
        for package in ("ftfy", "regex", "tokenizers"):
            pytest.importorskip(package)
    signal.alarm(60)  # against a hang; hostile_pictures.py measures
    said = hostile.read(kind, str(path))
    signal.alarm(0)
    return said


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if any(word in name for word in SLOW) else [])
        for name in hostile.CASES
    ],
)
def test_hostile_files_end_in_one_line(name, tmp_path):
    kind, make = hostile.CASES[name]
    if kind == "text":
        pytest.importorskip("open_clip")  # which has the vocabulary
    if kind == "curation":
        pytest.importorskip("ahocorasick_rs")
    assert (reads(kind, make(tmp_path)) == "OK") == (name in READ)


@pytest.mark.parametrize("name", ["thin: 30,000 x 1", "TIFF of tiles of 60,000 x 30,000", "TIFF, damaged"])
def test_hostile_files_take_little_memory_and_print_nothing(name, tmp_path):
    kind, make = hostile.CASES[name]
    _, above, said = hostile.measure(kind, str(make(tmp_path)))
    assert said.startswith("OK" if name in READ else "BrokenImage") and 0 < above < 200


@pytest.mark.parametrize("name", picture_mutations.KINDS)
def test_mutated_files_end_in_one_line(name, tmp_path):
    mutated = load("mutated_pictures")
    if name.startswith("vocabulary"):
        pytest.importorskip("tokenizers")
    found, kept = mutated.fuzz(name, 150, 0, tmp_path)
    assert not kept, found
    assert found["OK"] and (name == "index" or sum(found.values()) - found["OK"])  # a wrong index is made anew


def test_of_an_animation_the_first_picture_counts(picture, encode):
    small = picture.resize((40, 30))
    for format, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        first = small.quantize(32) if format == "GIF" else small
        content = encode(first, format, save_all=True, append_images=[first.rotate(90), first], **options)
        np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(first.convert("RGB")), err_msg=format)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 5), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8), [[1, 2]], None, "a.png",
    ],
)  # fmt: skip
def test_arrays_of_other_kinds_are_broken_images(array):
    with pytest.raises(BrokenImage, match=r"uint8\[H, W, 1, 3 or 4\]|no pixels"):
        decode(array)


def test_grey_and_alpha_of_an_array(picture):
    pair = np.asarray(picture.convert("LA"))
    np.testing.assert_array_equal(np.asarray(decode(pair))[..., 0], pair[..., 0])


@pytest.mark.parametrize("box", [(0, 0, 61, 83), (5, 7, 30, 41), (20, 3, 1, 70)])
def test_crops_in_bands_are_those_in_one_piece(box, picture, monkeypatch):
    top, left, h, w = box
    whole = picture.crop((left, top, left + w, top + h)).resize((40, 32), Image.Resampling.BICUBIC)
    for band in (1, 200, 2**20):
        monkeypatch.setattr(decoding, "BAND", band)
        np.testing.assert_array_equal(np.asarray(images.resized_crop(picture, box, (32, 40), "bicubic")), whole)


@pytest.mark.parametrize("height, width", [(400, 3), (3, 400), (1, 500), (500, 1)])
def test_thin_pictures_lose_their_ends_alone(height, width, monkeypatch):
    """What is cut, or resized in another order, lies beyond the crop or differs by rounding."""
    picture = Image.fromarray(np.random.default_rng(0).integers(80, 170, (height, width, 3), np.uint8))
    transforms = [images.EvalTransform((24, 32), squash=squash) for squash in (False, True)]
    expected = [transform(picture).astype(int) for transform in transforms]
    monkeypatch.setattr(limits, "RESIZED_PIXELS", 1)
    for transform, whole in zip(transforms, expected, strict=True):
        assert np.abs(transform(picture) - whole).max() <= 2
    assert images.without_ends(picture, (27, 36)).size != picture.size


def test_memory_of_a_picture_is_a_config_key(config, folder, encode, capfd):
    (folder / "zebra" / "0.png").write_bytes(encode(np.zeros((1000, 2000, 3), np.uint8)))
    config.data.train = f"folder:{folder}"
    masked = []
    for memory in (4, 8):
        config.data.picture_memory = memory
        reading._told.clear()
        with pipeline.train_batches(config, seed=0, start_step=0) as batches:
            masked.append(sum(int((~next(batches)["mask"]).sum()) for _ in range(11)))
    assert masked == [12, 0]
    assert (
        "zebra/0.png: decoding its 2,000 x 1,000 pixels takes about 7 MiB, more than the 4 of data.picture_memory"
        in (capfd.readouterr().err)
    )


@pytest.mark.parametrize("transform", [images.eval_transform, augment.train_transform])
def test_bad_memory_of_a_picture(transform):
    c = base_config()
    c.data.picture_memory = 0
    with pytest.raises(ConfigError, match=r"data\.picture_memory"):
        transform(c.data)


class Failing:
    """A source whose third example cannot be had for a reason of its own."""

    num_classes, class_names = 1, ("a",)

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": 0, "name": str(index)}


def test_what_a_source_raises_is_not_taken_for_a_broken_picture(config):
    for error, kind, message in (
        (OSError(24, "Too many open files"), RunError, "can no longer be read: Too many open files"),
        (ValueError("no record"), ValueError, "no record"),
        (RuntimeError("of a library"), RuntimeError, "of a library"),
    ):
        with (
            pytest.raises(kind, match=message),
            pipeline.eval_batches(Failing(error), config, batch_size=4) as batches,
        ):
            next(batches)
    for error in (BrokenImage("gone"), FileNotFoundError(2, "gone")):
        with pipeline.eval_batches(Failing(error), config, batch_size=4) as batches:
            assert next(batches)["mask"].tolist() == [True, True, False, True]


def test_names_are_escaped_where_they_are_printed(config, tmp_path, capfd):
    (tmp_path / "cat").mkdir()
    for name in ("\x1b[2Ja.png", "b\nerror: c.png", "\udcff.png"):
        (tmp_path / "cat" / name).write_bytes(b"")
    source = open_source(f"folder:{tmp_path}")
    with pipeline.eval_batches(source, config, batch_size=4) as batches:
        assert not next(batches)["mask"].any()
    lines = [line for line in capfd.readouterr().err.splitlines() if "broken image" in line]
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    assert any(r"cat/\x1b[2Ja.png: the file is empty" in line for line in lines)


def test_files_that_vanish_are_named(tmp_path, encode):
    (tmp_path / "a.png").write_bytes(encode(np.zeros((4, 4), np.uint8)))
    source = Pictures([str(tmp_path)])
    (tmp_path / "a.png").unlink()
    with pytest.raises(BrokenImage, match=r"cannot read '.*a\.png': No such file"):
        source[0]
    with pytest.raises(BrokenImage, match="it is a folder"):
        read_picture(tmp_path)


def test_pictures_lie_at_any_depth(tmp_path, encode):
    depth, folder = sys.getrecursionlimit() + 50, str(tmp_path)
    for _ in range(depth):
        folder += "/a"
        pathlib.Path(folder).mkdir()
    picture = pathlib.Path(folder, "x.PNG")
    picture.write_bytes(encode(np.zeros((4, 4), np.uint8)))
    found = Pictures([str(tmp_path)]).paths
    picture.unlink()
    for parent in list(picture.parents)[:depth]:  # deeper than pytest can tidy up
        parent.rmdir()
    assert found == [picture]


def test_only_the_first_characters_of_a_text_are_read():
    tokenizer = open_tokenizer("bytes", 2**17)
    rows = tokenizer(["é" * (limits.TEXT_CHARACTERS + 9)])
    assert rows.argmax() == 1 + 2 * limits.TEXT_CHARACTERS
    with pytest.raises(ConfigError, match=r"'aaa.* has 32,769 characters, more than the 32,768 that are read"):
        tokenizer(["a" * 32_769], truncate=False)


def test_what_of_a_shard_is_too_large_is_counted(tmp_path):
    shards = load("hostile_shards")
    pair = lambda key, picture, text: (  # noqa: E731
        shards.member(f"{key}.jpg", picture) + bytes(-(-picture // 512) * 512) + shards.member(f"{key}.txt", text)
        + b"a" * text + bytes(-text % 512)
    )  # fmt: skip
    name = b"n" * 2000 + b".jpg\0"
    long = shards.member("x", len(name), b"L") + shards.padded(name) + shards.member("n", 1) + shards.padded(b"n")
    content = io.BytesIO(
        pair("a", 3, limits.CAPTION_BYTES) + pair("b", 3, limits.CAPTION_BYTES + 1) + long + bytes(1024)
    )
    (tmp_path / "a.tar").write_bytes(content.getvalue())
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert len(source) == 1 and len(source[0]["captions"][0]) == limits.CAPTION_BYTES
    assert source.skipped == {"caption of more than 1,048,576 bytes": 1, "name of more than 1,024 bytes": 1}
