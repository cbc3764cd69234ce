"""csv:FILE: what each column means, and files that are odd or wrong."""

import pickle

import numpy as np
import pytest
from PIL import Image

from vision_jax import limits
from vision_jax.data import open_source
from vision_jax.data.fingerprints import fingerprint
from vision_jax.data.pipeline import eval_batches
from vision_jax.data.sources.csv import Csv
from vision_jax.errors import ConfigError


@pytest.fixture
def table(tmp_path):
    """table(text or bytes) -> the path of a CSV file beside the pictures a.png, b.png and c.png."""
    for grey, name in enumerate("abc"):
        Image.fromarray(np.full((4, 4, 3), 50 * grey, np.uint8)).save(tmp_path / f"{name}.png")

    def write(content):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "table.csv").write_bytes(content)
        return str(tmp_path / "table.csv")

    return write


def examples(path):
    source = open_source(f"csv:{path}")
    return [{k: v for k, v in source[i].items() if k not in ("image", "name")} for i in range(len(source))]


def names(path):
    return [source[i]["name"].rpartition("/")[2] for source in [Csv(path)] for i in range(len(source))]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("file\na.png\nb.png", [{}, {}]),
        ("file,label\na.png,dog\nb.png,cat", [{"label": 1, "labels": (1,)}, {"label": 0, "labels": (0,)}]),
        (
            "labels,image\ndog|cat,a.png\n,b.png\n cat | cat|,c.png",
            [{"labels": (1, 0)}, {"labels": ()}, {"labels": (0,)}],
        ),
        ("path,age,size\na.png,3,1e2\nb.png,-4.5,0", [{"targets": (3, 100)}, {"targets": (-4.5, 0)}]),
        ("filename,caption\na.png,a cat\nb.png,", [{"captions": ("a cat",)}, {}]),
        (
            "x,caption,label,file\n1,hi,cat,a.png",
            [{"label": 0, "labels": (0,), "targets": (1.0,), "captions": ("hi",)}],
        ),
    ],
)
def test_what_columns_mean(table, text, expected):
    assert examples(table(text)) == expected


def test_names_of_classes_and_targets(table):
    source = Csv(table("file,labels,z,a\na.png,zebra|ant,1,2\nb.png,bee,3,4"))
    assert source.class_names == ("ant", "bee", "zebra") and source.num_classes == 3
    assert source.target_names == ("z", "a") and source.labels == []
    single = Csv(table("file,label\na.png,zebra\nb.png,ant\nc.png,zebra"))
    assert single.class_names == ("ant", "zebra") and single.labels == [1, 0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.png,cat\nb.png,été\n",
        b"\xef\xbb\xbffile,label\r\na.png,cat\r\nb.png,\xc3\xa9t\xc3\xa9\r\n",
        "file,label\ra.png,cat\rb.png,été",
        '\n"file","label"\n\n"a.png","cat"\n\n\n"b.png","été"\n\n'[1:],
        'file, label\na.png, cat\nb.png, "été "',
    ],
    ids=["plain", "bom_and_windows", "carriage_returns", "quoted_and_blank_lines", "blanks"],
)
def test_the_same_table_written_otherwise(table, text):
    path = table(text)
    assert Csv(path).class_names == ("cat", "été") and names(path) == ["a.png", "b.png"]
    assert [example["label"] for example in examples(path)] == [0, 1]


def test_quotes_commas_and_newlines_within(table):
    path = table('file,caption\na.png,"a ""big"" cat,\nand a dog"\nb.png,x')
    assert examples(path) == [{"captions": ('a "big" cat,\nand a dog',)}, {"captions": ("x",)}]


def test_paths_are_relative_to_the_table_or_absolute(table, tmp_path, monkeypatch):
    (tmp_path / "été").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "été" / "ä b.png")
    path = table(f"file\nété/ä b.png\n{tmp_path / 'b.png'}\n./c.png")
    monkeypatch.chdir(tmp_path / "été")
    for each in (path, "../table.csv"):
        source = Csv(each)
        monkeypatch.chdir("/")
        assert all(source[i]["image"].startswith(b"\x89PNG") for i in range(3))
        monkeypatch.chdir(tmp_path / "été")


def test_missing_pictures_count_as_broken_and_are_named(table, config, capfd):
    source = Csv(table("file,label\nnone.png,cat\na.png,dog\n,cat\n../../../etc/hostname,cat"))
    with eval_batches(source, config, batch_size=4) as batches:
        assert next(batches)["mask"].tolist() == [False, True, False, False]
    told = capfd.readouterr().err
    assert "none.png': No such file" in told and "it is a folder" in told and "hostname" in told


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "line 1: expected distinct names of columns, 'file' among them"),
        ("\n\n", "line 1: expected distinct names"),
        ("label\ncat", "'file' among them; got 'label'"),
        ("file;label\na.png;cat", "got 'file;label'"),
        ("file,label,label\na.png,cat,dog", "distinct names of columns"),
        (",file,label\n0,a.png,cat", "distinct names of columns"),
        ("file,label,labels\na.png,cat,dog", "either 'label' or 'labels'"),
        ("file,label\n\n", "there are no rows"),
        ("file,label\na.png,cat\nb.png", "line 3: expected 2 values, got 1"),
        ("file,label\na.png,cat,dog", "line 2: expected 2 values, got 3"),
        ('file,caption,x\na.png,"two\nlines",1\nb.png,c,one', "line 4: column 'x' must be a number.*'one'"),
        ("file,x\na.png,", "line 2: column 'x' must be a number.*got ''"),
        ("file,x\n\na.png,1\n\n\nb.png,nan", "line 6: column 'x'.*got 'nan'"),
        ("file,x\na.png,-inf", "column 'x'"),
        ("file,x\na.png,1e39", "column 'x'.*got '1e39'"),
        ("file,note\na.png,\x1b[31mred\nb.png,x", r"column 'note'.*\\x1b\[31mred"),
        ("file,label\na.png,  ", "line 2: the label is empty"),
        ("file,labels\na.png,|", "no row has any labels"),
        ('file,label\na.png,"cat\nb.png,dog', "unexpected end of data"),
        ('file,label\na.png,"cat"s', "line 2"),
        (b"file,label\na.png,cat\nb.png,\xe9t\xe9", "line 3: it is no UTF-8 text"),
        ("file,label\na.png,cat".encode("utf-16"), "line 1: it is no UTF-8 text"),
        ("file,caption\na.png," + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(table, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Csv(table(text))
    assert "table.csv" in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 800


@pytest.mark.parametrize("path, words", [("", "No such file"), ("{}", "folder"), ("{}/none.csv", "No such file")])
def test_what_cannot_be_read(tmp_path, path, words):
    with pytest.raises(ConfigError, match=f"'csv:.*{words}"):
        open_source("csv:" + path.format(tmp_path))


def test_a_table_is_read_within_limits(table, monkeypatch):
    path = table("file,label\na.png,cat\nb.png,cat\nc.png,cat")
    monkeypatch.setattr(limits, "TABLE_ROWS", 2)
    with pytest.raises(ConfigError, match="line 4: there are more than the 2 rows"):
        Csv(path)
    monkeypatch.setattr(limits, "TABLE_BYTES", 20)
    with pytest.raises(ConfigError, match="bytes, more than the 20"):
        Csv(path)


def test_a_share_has_the_classes_and_targets_of_the_whole(table):
    path = table("file,label,x\n" + "".join(f"a.png,{'cat' if i % 2 else 'dog'},{i}\n" for i in range(20)))
    first, rest = open_source(f"csv:{path}[:50%]"), open_source(f"csv:{path}[50%:]")
    seen = [source[i]["targets"][0] for source in (first, rest) for i in range(len(source))]
    assert seen == list(range(20)) and [first[i]["label"] for i in range(10)] == [1, 0] * 5
    assert rest.target_names == ("x",) and rest.class_names == ("cat", "dog")


def test_fingerprint_follows_the_file_and_not_its_place(table, tmp_path):
    path = table("file,label\na.png,cat")
    before = fingerprint(Csv(path))
    (tmp_path / "moved").mkdir()
    (tmp_path / "table.csv").rename(tmp_path / "moved" / "table.csv")
    assert fingerprint(Csv(str(tmp_path / "moved" / "table.csv"))) == before
    assert fingerprint(Csv(table("file,label\na.png,dog"))) != before
    assert fingerprint(pickle.loads(pickle.dumps(Csv(table("file,label\na.png,cat"))))) == before
