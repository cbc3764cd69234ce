import io
import json
import multiprocessing
import os
import pathlib
import pickle
import tarfile
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax import limits
from vision_jax.data import open_source, pipeline
from vision_jax.data.shards import index as shard_index
from vision_jax.data.shards import tar
from vision_jax.data.sources.wds import expand
from vision_jax.errors import ConfigError, RunError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make(path, contents, format=tarfile.PAX_FORMAT):
    """A tar file of (name, bytes) members, and of the member headers' offsets."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in contents:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def pair(number, folder=""):
    """The three members of img2dataset's pair; the picture's bytes tell its number, too."""
    key = f"{folder}{number:09d}"
    return [
        (f"{key}.jpg", f"picture {number} ".encode() * (7 * number + 1)),
        (f"{key}.json", json.dumps({"caption": f"json {number}", "url": "http://"}).encode()),
        (f"{key}.txt", f"caption {number}".encode()),
    ]


def delivered(source):
    """key -> (picture, captions)"""
    examples = [source[i] for i in range(len(source))]
    found = {e["name"].rpartition(":")[2]: (e["image"], e["captions"]) for e in examples}
    assert len(found) == len(examples)
    return found


def originals(count):
    return {f"{i:09d}": (pair(i)[0][1], (f"caption {i}",)) for i in range(count)}


def test_pairs_of_several_shards_in_order(tmp_path):
    for shard in range(3):
        make(tmp_path / f"{shard:03d}.tar", [m for i in range(4) for m in pair(4 * shard + i)])
    source = open_source(f"wds:{tmp_path}/{{000..002}}.tar")
    assert len(source) == 12 and source.skipped == {} and source.num_classes == 0 and source.class_names == ()
    for i in range(12):
        name = f"{tmp_path}/{i // 4:03d}.tar:{i:09d}"
        assert source[i] == {"image": pair(i)[0][1], "label": 0, "name": name, "captions": (f"caption {i}",)}
    for index in (-1, 12):
        with pytest.raises(IndexError):
            source[index]
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7] == source[7] and len(pickle.dumps(source)) < 1000


@pytest.mark.parametrize("format", FORMATS)
def test_names_of_every_format(tmp_path, format):
    keys = ["a.b.c", "./here", "part 1/x", "part 2/x", "0", "猫/Ü" * 5]
    if format != tarfile.USTAR_FORMAT:
        keys += ["long/" * 60 + "name", "長い" * 120]
    contents = [(f"{key}.PNG", key.encode()) for key in keys] + [(f"{key}.txt", key.encode()) for key in keys]
    source = open_source("wds:" + make(tmp_path / "a.tar", contents, format))
    assert delivered(source) == {key.removeprefix("./"): (key.encode(), (key,)) for key in keys}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS[1:]), st.lists(st.tuples(st.text(min_size=1, max_size=150), st.binary(max_size=1200))))
def test_members_are_those_that_tarfile_finds(format, contents):
    contents = [(name.replace("\0", "_"), data) for name, data in contents if name.isprintable()]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, data in contents:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    found = list(tar.members(stream, len(stream.getvalue())))
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        expected = [(m.name.encode().rstrip(b"/"), m.offset_data, m.size, "") for m in archive if m.isfile()]
    assert [(name.rstrip(b"/"), *rest) for name, *rest in found] == expected


def test_large_sizes_are_read(tmp_path):
    """Above 8 GiB, in GNU's binary numbers and in pax's records, in files with holes."""
    for format in FORMATS[1:]:
        path = tmp_path / "huge.tar"
        member = tarfile.TarInfo("huge.jpg")
        member.size = 2**33 + 5
        head = member.tobuf(format)
        end = len(head) + 2**33 + 512
        with open(path, "wb") as stream:
            stream.write(head)
            stream.truncate(end + 1024)
        with open(path, "rb") as stream:
            assert list(tar.members(stream, end + 1024)) == [(b"huge.jpg", len(head), 2**33 + 5, "")]
        path.unlink()


def test_captions(tmp_path):
    good = {
        "a.txt": (b"  two\nlines \r\n", ("two\nlines",)),
        "b.txt": ("\ufeffBOM ß 猫".encode(), ("BOM ß 猫",)),
        "c.json": (b'{"caption": " one "}', ("one",)),
        "d.json": (b'{"caption": ["one", " ", "two "]}', ("one", "two")),
    }
    bad = {
        "e.txt": (b"", "empty caption"),
        "f.txt": (b" \n", "empty caption"),
        "g.txt": (b"\xff\xfe", "caption is not text"),
        "h.txt": (b"a\0b", "caption is not text"),
        "i.json": (b"", "empty caption"),
        "j.json": (b"{", "caption is not text"),
        "k.json": (b'{"caption": 3}', "caption is not text"),
        "l.json": (b'{"caption": ["a", 3]}', "caption is not text"),
        "m.json": (b'["caption"]', "caption is not text"),
        "n.json": (b'{"text": "a"}', "no caption"),
        "o.json": (b'{"caption": null}', "no caption"),
        "p.json": (b'{"caption": []}', "no caption"),
        "q.json": (b'{"caption": [""]}', "empty caption"),
        "r.json": (rb'{"caption": "\ud83d"}', "caption is not text"),
        "s.json": (b"[" * 100_000, "caption is not text"),
        "t.json": (b'{"caption": ' + b"9" * 5000 + b"}", "caption is not text"),
        "u.cls": (b"3", "no caption"),
    }
    contents = [(f"{name[0]}.webp", name.encode()) for name in good | bad]
    contents += [(name, data) for name, (data, _) in (good | bad).items()]
    source = open_source("wds:" + make(tmp_path / "a.tar", contents))
    assert delivered(source) == {name[0]: (name.encode(), captions) for name, (_, captions) in good.items()}
    reasons = [reason for _, reason in bad.values()]
    assert source.skipped == {reason: reasons.count(reason) for reason in reasons}


def test_a_text_decides_over_json(tmp_path):
    contents = [("a.jpg", b"a"), ("a.json", b'{"caption": "json"}'), ("a.txt", b"text")]
    contents += [("b.jpg", b"b"), ("b.json", b'{"caption": "json"}'), ("b.txt", b"")]
    source = open_source("wds:" + make(tmp_path / "a.tar", contents))
    assert delivered(source) == {"a": (b"a", ("text",))} and source.skipped == {"empty caption": 1}


def test_what_makes_no_pair_is_counted_and_named(tmp_path, capfd):
    contents = [m for i in range(20) for m in pair(i)]
    contents[3 * 4] = ("000000004.jpg", b"")
    contents[3 * 8] = ("000000008.gif", b"unknown suffix")
    contents += [("000000009.txt", b"again"), ("000000010.png", b"again"), ("folder/._000000001.jpg", b"of a Mac")]
    contents += [m for i in range(20, 28) for m in pair(i)[:1]]
    spec = "wds:" + make(tmp_path / "a.tar", contents)
    source = open_source(spec)
    reasons = {"empty picture": 1, "caption without picture": 1, "duplicate key": 2, "no caption": 8}
    assert source.skipped == reasons
    assert delivered(source) == {k: v for k, v in originals(20).items() if int(k) not in (4, 8, 9, 10)}
    err = capfd.readouterr().err
    assert f"{spec}: skipped 1 x empty picture: {tmp_path}/a.tar:000000004\n" in err
    assert "8 x no caption" in err and "a.tar:000000024, ...\n" in err and "000000025" not in err
    assert open_source(spec).skipped == reasons and "skipped" not in capfd.readouterr().err


@settings(max_examples=150, deadline=None)
@given(data=st.data(), format=st.sampled_from(FORMATS))
def test_damage_never_gives_a_wrong_pair(data, format):
    """Whatever members are lost, empty, doubled or moved, headers damaged, and ends cut off."""
    folder = data.draw(st.sampled_from(["", "長" * 50 + "/"]))  # with it, names need the formats' extensions
    contents = [m for i in range(6) for m in pair(i, folder)]
    order = data.draw(st.permutations(range(18)) | st.just(list(range(18))))
    lost, empty, doubled = (data.draw(st.sets(st.sampled_from(order), max_size=4)) for _ in range(3))
    shard = [(contents[i][0], b"" if i in empty else contents[i][1]) for i in order if i not in lost]
    shard += [contents[i] for i in doubled if i not in lost]
    with tempfile.TemporaryDirectory() as root:
        path = make(pathlib.Path(root) / "a.tar", shard, format)
        with tarfile.open(path) as archive:
            headers = [offset for m in archive for offset in (m.offset, m.offset_data - 512)]
        content = bytearray(pathlib.Path(path).read_bytes())
        broken = data.draw(st.lists(st.sampled_from(range(len(headers))), max_size=3)) if headers else []
        for number in broken:
            at = headers[number]
            if data.draw(st.booleans()):
                content[at : at + 512] = bytes(512)
            else:
                content[at + data.draw(st.integers(0, 344))] ^= 1 << data.draw(st.integers(0, 5))
        length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
        pathlib.Path(path).write_bytes(content[:length])
        try:
            source = open_source(f"wds:{path}")
        except ConfigError as error:
            assert "no picture with a caption" in str(error)
            return
        found = {key.removeprefix(folder): example for key, example in delivered(source).items()}
        expected = originals(6)
        for key, (picture, captions) in found.items():
            assert picture == expected[key][0]
            assert captions in (expected[key][1], (f"json {int(key)}",))  # where the text is lost
        if not broken and length == len(content):
            touched = {i // 3 for i in lost | doubled} | {i // 3 for i in empty if i % 3 != 1}
            assert set(found) >= {f"{i:09d}" for i in range(6) if i not in touched}
            assert bool(source.skipped) == (
                len(found) < 6 - sum({3 * i, 3 * i + 1, 3 * i + 2} <= lost for i in range(6))
            )


def test_truncated_shards_lose_their_end(tmp_path, capfd):
    path = make(tmp_path / "a.tar", [m for i in range(10) for m in pair(i)])
    with tarfile.open(path) as archive:
        offsets = [(m.offset, m.offset_data, m.size) for m in archive]
    whole = pathlib.Path(path).read_bytes()
    for number, (header, data, size) in list(enumerate(offsets))[3:]:
        for end in (header, header + 9, data, data + size - 1):
            pathlib.Path(path).write_bytes(whole[:end])
            source = open_source(f"wds:{path}")
            json_serves = number % 3 == 2 and end < data  # nothing tells that there was a text
            assert sorted(delivered(source)) == [f"{i:09d}" for i in range(number // 3 + json_serves)]
            assert source.skipped["cut off by the end of the file"] == 1
    assert f"{path}:000000009" in capfd.readouterr().err


def test_files_that_are_no_tar_are_counted_beside_those_that_are(tmp_path):
    make(tmp_path / "0.tar", pair(0))
    (tmp_path / "1.tar").write_bytes(b"")
    (tmp_path / "2.tar").write_bytes(b"<html>404</html>" * 100)
    source = open_source(f"wds:{tmp_path}/*.tar")
    assert delivered(source) == originals(1)
    assert source.skipped == {"cut off by the end of the file": 2, "damaged tar header": 1}
    with pytest.raises(ConfigError, match=r"holds no picture with a caption; 1 x cut off.*1\.tar"):
        open_source(f"wds:{tmp_path}/1.tar")


def test_what_follows_the_end_of_an_archive_is_told(tmp_path):
    first, second = (pathlib.Path(make(tmp_path / f"{i}.tar", pair(i))).read_bytes() for i in range(2))
    (tmp_path / "both.tar").write_bytes(first + second)
    source = open_source(f"wds:{tmp_path}/both.tar")
    assert delivered(source) == originals(1) and source.skipped == {"bytes after the end of the archive": 1}


def test_indexes_are_kept_and_follow_their_shard(tmp_path, monkeypatch):
    path = make(tmp_path / "a.tar", [m for i in range(3) for m in pair(i)])
    source = open_source(f"wds:{path}")
    kept = pathlib.Path(f"{path}.index")
    head = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "_make", lambda shard: pytest.fail("indexed again"))
        shard_index.index_of.cache_clear()
        assert delivered(open_source(f"wds:{path}")) == originals(3)
    for corrupt in (
        b"",
        b"{",
        head[:-1],
        head[:-9] + bytes(9),
        head.replace(b"pairs", b"pears"),
        os.urandom(500),
        b"[]\n",
    ):
        kept.write_bytes(corrupt)
        shard_index.index_of.cache_clear()
        assert delivered(open_source(f"wds:{path}")) == originals(3)
        assert kept.read_bytes() == head
    make(path, [m for i in range(5) for m in pair(i)])
    assert delivered(open_source(f"wds:{path}")) == originals(5)
    for _ in range(2):
        with pytest.raises(RunError, match="has changed"):
            source[0]
        shard_index.index_of.cache_clear()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index"]


def test_folders_that_cannot_be_written_to(tmp_path, home, monkeypatch):
    path = make(tmp_path / "a.tar", pair(0))
    pathlib.Path(f"{path}.index").mkdir()  # in the way, also of root
    assert delivered(open_source(f"wds:{path}")) == originals(1)
    assert len(list((home / ".cache" / "vision_jax" / "wds").iterdir())) == 1
    shard_index.index_of.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="can be written to none of"):
        open_source(f"wds:{path}")


def _open_and_read(spec):
    source = open_source(spec)
    return len(source), [source[i]["image"] for i in range(0, len(source), 7)]


def test_processes_may_index_at_the_same_time(tmp_path):
    for shard in range(4):
        make(tmp_path / f"{shard}.tar", [m for i in range(40) for m in pair(i)])
    spec = f"wds:{tmp_path}/{{0..3}}.tar"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        results = pool.map(_open_and_read, [spec] * 4, chunksize=1)
    assert all(result == _open_and_read(spec) for result in results) and results[0][0] == 160
    assert len(list(tmp_path.iterdir())) == 8


def test_more_shards_than_open_files(tmp_path, monkeypatch):
    for shard in range(200):
        make(tmp_path / f"{shard:03d}.tar", pair(shard))
    source = open_source(f"wds:{tmp_path}/{{000..199}}.tar")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert delivered(source) == originals(200)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 128


@pytest.mark.parametrize(
    "pattern, paths",
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{000..001}/{3..4}", ["000/3", "000/4", "001/3", "001/4"]),
        ("{b,a}{0..0}", ["b0", "a0"]),
        ("~/x", [os.path.expanduser("~/x")]),
    ],
)
def test_braces(pattern, paths, monkeypatch):
    monkeypatch.undo()
    assert expand(pattern) == paths


def test_stars_match_files(tmp_path):
    for name in ("b.tar", "a[1].tar", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a[1].tar", f"{tmp_path}/b.tar"]
    assert expand(f"{tmp_path}/a[1]*") == [f"{tmp_path}/a[1].tar"]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("wds:", "names no shards"),
        ("wds:{tmp}/{{000..002}}.tar", "'{tmp}/001.tar' cannot be read: No such file"),
        ("wds:{tmp}/*.tgz", "no file matches 'wds:{tmp}/*.tgz'"),
        ("wds:{tmp}", "is a folder; did you mean 'wds:{tmp}/*.tar'?"),
        ("wds:{tmp}/{{3..1}}.tar", "'{{3..1}}' in"),
        ("wds:{tmp}/{{1..}}.tar", "must be a rising range"),
        ("wds:{tmp}/{{000..002.tar", "do not match"),
        ("wds:{tmp}/no.npz", "selection '{tmp}/no.npz' cannot be read: No such file"),
        ("wds:{tmp}/000.npz", "is no selection that vision_jax.data.curate wrote"),
    ],
)
def test_errors_name_what_is_wrong(spec, message, tmp_path):
    make(tmp_path / "000.tar", pair(0))
    make(tmp_path / "000.npz", pair(0))
    with pytest.raises(ConfigError) as error:
        open_source(spec.format(tmp=tmp_path))
    assert message.format(tmp=tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_exactly(tmp_path, config, encode, workers):
    rng = np.random.default_rng(0)
    for shard in range(3):
        pictures = [encode(rng.integers(0, 256, (20, 24, 3), np.uint8)) for _ in range(10)]
        pictures[4] = pictures[4][:60]
        make(tmp_path / f"{shard}.tar", [m for i in range(10) for m in ((f"{i}.png", pictures[i]), (f"{i}.txt", b"a"))])
    config.data.train = f"wds:{tmp_path}/{{0..2}}.tar"

    def batches(start, steps, workers=0):
        config.data.workers = workers
        with pipeline.train_batches(config, seed=3, start_step=start) as found:
            return [{key: np.array(value) for key, value in next(found).items()} for _ in range(steps)]

    whole = batches(0, 9)
    np.testing.assert_equal(batches(4, 5, workers), whole[4:])
    masks = np.concatenate([batch["mask"] for batch in whole])
    ids = np.concatenate([batch["id"] for batch in whole])
    assert set(ids[~masks]) == {4, 14, 24}


def test_what_an_index_says_of_skipped_members_is_not_printed_unless_it_can_be(tmp_path, capfd):
    path = make(tmp_path / "a.tar", pair(0))
    open_source(f"wds:{path}")
    kept = pathlib.Path(f"{path}.index")
    head, _, rows = kept.read_bytes().partition(b"\n")
    for skipped in (
        {"\x1b[2J": [1, ["a"]]},
        {"no caption": [1, []]},
        {"no caption": [1, ["a"] * 2]},
        {"no caption": [0, []]},
    ):
        kept.write_bytes(json.dumps(json.loads(head) | {"skipped": skipped}).encode() + b"\n" + rows)
        shard_index.index_of.cache_clear()
        source = open_source(f"wds:{path}")
        assert delivered(source) == originals(1) and source.skipped == {}
        assert kept.read_bytes().partition(b"\n")[0] == head
    assert "\x1b" not in capfd.readouterr().err


def test_members_behind_too_many_extended_headers_are_told(tmp_path, monkeypatch):
    names = [f"{'long ' * 40}{number}" for number in range(3)]
    contents = [(f"{name}.{suffix}", b"data") for name in names for suffix in ("jpg", "txt")]
    path = make(tmp_path / "a.tar", pair(0) + contents + pair(1))
    monkeypatch.setattr(limits, "TAR_EXTENSION_BYTES", 1000)  # each of the names takes some 220
    source = open_source(f"wds:{path}")
    assert set(delivered(source)) == {"000000000", *names[:2], "000000001"}
    assert source.skipped == {tar.EXTENDED: 4}


def test_a_shard_that_is_named_often_is_indexed_once(tmp_path, monkeypatch):
    make(tmp_path / "a.tar", [m for i in range(3) for m in pair(i)])
    made = []
    monkeypatch.setattr(shard_index, "_make", lambda shard, make=shard_index._make: made.append(shard) or make(shard))
    source = open_source(f"wds:{tmp_path}/{{,./,.//}}a.tar")
    assert len(source) == 9 and source[8] == source[5] == source[2] and len(made) == 1
    assert len(set(source.fingerprint().values())) == 1 and len(source.fingerprint()) == 3


def test_paths_of_a_pattern_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "SHARD_NAMES", 20 * 6)
    assert len(expand("{00..19}.tar")) == 20
    with pytest.raises(ConfigError, match="names 20 shards by paths that are too long"):
        expand("{00..19}a.tar")
