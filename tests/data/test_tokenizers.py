import gzip
import html
import importlib
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.errors import ConfigError

FILE = "bpe_simple_vocab_16e6.txt.gz"
TINY = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o</w>"), ("Ã", "©</w>")]  # the last one is é at the end
SPECIALS = ["<|startoftext|>", "<|endoftext|>"]


@settings(max_examples=200)
@given(st.text(st.characters(codec="ascii")))
@example("plain & <b> &amp; \x1c text\x7f")
def test_ascii_is_cleaned_as_ftfy_and_html_do(text):
    ftfy, regex = pytest.importorskip("ftfy"), pytest.importorskip("regex")
    from vision_jax.data.tokenizers.clip import Clip

    tokenizer = Clip.__new__(Clip)
    tokenizer._fix_text = ftfy.fix_text
    expected = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    assert tokenizer._clean(text) == regex.sub(r"\s+", " ", expected).strip().lower()


def tiny_names() -> list[str]:
    from vision_jax.data.tokenizers.vocabulary import byte_symbols

    symbols = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) > 255, symbol))
    return [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, TINY), *SPECIALS]


@pytest.fixture
def tiny(tmp_path):
    """A folder with the same small vocabulary in each of the formats: five merges, 519 ids."""
    for name in ("ftfy", "regex", "tokenizers"):
        pytest.importorskip(name)
    import tokenizers

    lines = "\n".join(["#version: 0.2", *map(" ".join, TINY), ""])
    (tmp_path / "bpe.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(lines.encode()))
    ids = {name: id for id, name in enumerate(tiny_names())}
    for folder in ("pair", "single"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pair" / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "pair" / "merges.txt").write_text(lines, encoding="utf-8")
    for name in SPECIALS:
        del ids[name]
    model = tokenizers.models.BPE(ids, TINY, end_of_word_suffix="</w>")
    library = tokenizers.Tokenizer(model)
    library.add_special_tokens(SPECIALS)
    library.save(str(tmp_path / "single" / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    "path", ["bpe.txt", "bpe.txt.gz", "pair", "pair/vocab.json", "single", "single/tokenizer.json"]
)
def test_every_format_of_a_vocabulary(tiny, path):
    tokenizer = open_tokenizer(f"clip:{tiny / path}", 9)
    e, ell, w = (ord(letter) - 33 for letter in "elw")
    hell = [512, ell, 256 + ell]  # "l l</w>" is no merge
    assert (tokenizer.vocab_size, tokenizer.start_id, tokenizer.end_id) == (519, 517, 518)
    np.testing.assert_array_equal(
        tokenizer(["Hello  HELL &eacute;", "w\u00e9 we"]),
        [[517, 515, *hell, 516, 518, 0, 0], [517, w, 516, w, 256 + e, 518, 0, 0, 0]],
    )


def test_names_of_start_and_end_become_these_tokens(tiny):
    tokenizer = open_tokenizer(f"clip:{tiny / 'bpe.txt'}", 9)
    assert tokenizer.token_ids("<|startoftext|>hello<|EndOfText|>") == [517, 515, 518]


@pytest.fixture(params=["bytes", "clip"])
def spec(request) -> str:
    return "bytes" if request.param == "bytes" else f"clip:{request.getfixturevalue('tiny')}/bpe.txt"


def test_a_text_too_long_is_cut_before_its_end_or_refused(spec):
    tokenizer = open_tokenizer(spec, 5)
    rows = tokenizer(["xyz", "wxyz", "x yz" * 5000])
    assert rows.dtype == np.int32 and rows.shape == (3, 5)
    assert (rows[:, 0] == tokenizer.start_id).all() and (rows[:, -1] == tokenizer.end_id).all()
    assert (rows.argmax(axis=1) == 4).all() and tokenizer.end_id == tokenizer.vocab_size - 1
    np.testing.assert_array_equal(tokenizer(["xyz"], truncate=False), rows[:1])
    with pytest.raises(ConfigError, match=r"^the text 'wxyz' has 6 tokens, start and end included.* is 5$"):
        tokenizer(["xyz", "wxyz"], truncate=False)
    with pytest.raises(ConfigError) as error:
        tokenizer(["x yz" * 5000], truncate=False)
    assert len(str(error.value)) < 200


@given(st.text(max_size=30))
def test_bytes_are_utf8(text):
    (row,) = open_tokenizer("bytes", 128)([text])
    length = len(text.encode())
    assert bytes((row[1 : length + 1] - 1).tolist()).decode() == text
    assert row[0] == 257 and row[length + 1] == 258 == row.max() and not row[length + 2 :].any()


def test_bytes_of_a_lone_surrogate_and_of_nothing():
    tokenizer = open_tokenizer("bytes", 4)
    np.testing.assert_array_equal(tokenizer(["\ud800", ""]), [[257, ord("?") + 1, 258, 0], [257, 258, 0, 0]])
    assert tokenizer([]).shape == (0, 4)


def test_tokenizers_survive_pickling(spec):
    tokenizer = open_tokenizer(spec, 7)
    tokenizer(["hello world"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.vocab_size, copy.context_length, copy.end_id) == (tokenizer.vocab_size, 7, tokenizer.end_id)
    np.testing.assert_array_equal(copy(["hello world"]), tokenizer(["hello world"]))


def test_clip_alone_takes_the_file_of_an_installed_package_without_importing_it(tiny, monkeypatch):
    package = tiny / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / FILE).write_bytes((tiny / "bpe.txt.gz").read_bytes())
    monkeypatch.syspath_prepend(tiny)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    assert open_tokenizer("clip", 7).token_ids("hello") == [515]


@pytest.mark.parametrize("folder", ["pair", "single"])
def test_a_model_of_the_hub(tiny, monkeypatch, folder):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(model, file):
        assert model == "org/model"
        if not (path := tiny / folder / file).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(file)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert open_tokenizer("clip:org/model", 7).token_ids("hello") == [515]


def test_a_hub_without_connection(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(model, file):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nlong advice")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConfigError, match=r"vocabulary of 'org/model' from the hub: no connection; get OpenAI's file"):
        open_tokenizer("clip:org/model", 7)


def test_a_missing_vocabulary_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for spec in ("clip", f"clip:{tmp_path}/absent.txt.gz", f"clip:{tmp_path}"):
        with pytest.raises(ConfigError) as error:
            open_tokenizer(spec, 77)
        message = str(error.value)
        assert "https://github.com/openai/CLIP" in message and FILE in message and "\n" not in message
        assert all(way in message for way in ("'clip:FILE'", "'clip:FOLDER'", "'clip:openai/", "open_clip_torch"))


@pytest.mark.parametrize("package", ["ftfy", "regex", "tokenizers"])
def test_a_missing_package_says_how_to_install_it(tiny, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"needs the package '{package}'.*pip install ftfy regex tokenizers"):
        open_tokenizer(f"clip:{tiny / 'bpe.txt'}", 77)


def damaged_vocabularies(root) -> dict[str, str]:
    ids = {name: id for id, name in enumerate(tiny_names())}
    model = {"type": "BPE", "vocab": ids, "merges": [], "end_of_word_suffix": "</w>"}
    contents = {
        "cut.txt.gz": (root / "bpe.txt.gz").read_bytes()[:40],
        "plain.txt.gz": b"#version\nh e\n",
        "binary.txt": b"\xff\xfe\x00",
        "three.txt": b"#version\nh e\na b c\n",
        "unmade.txt": b"#version\nhe llo\n",
        "broken.json": b"{",
        "list.json": b"[1]",
        "alone.json": json.dumps(ids).encode(),
        "wordpiece.json": json.dumps({"model": model | {"type": "WordPiece"}}).encode(),
        "gpt2.json": json.dumps({"model": model | {"end_of_word_suffix": None}}).encode(),
        "no_end.json": json.dumps({"model": model | {"vocab": {"a": 0}}}).encode(),
        "end_first.json": json.dumps({"model": model | {"vocab": ids | {"!": 518, SPECIALS[1]: 0}}}).encode(),
        "few.json": json.dumps({"model": model | {"vocab": {SPECIALS[0]: 0, SPECIALS[1]: 1}}}).encode(),
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return {
        "cut.txt.gz": "cannot read the vocabulary",
        "plain.txt.gz": "cannot read the vocabulary",
        "binary.txt": "cannot read the vocabulary",
        "three.txt": "line 3 is not two symbols, 'a b c'",
        "unmade.txt": "it lacks 2 symbols, such as 'he'",
        "broken.json": "cannot read the vocabulary",
        "list.json": "is not a JSON object",
        "alone.json": "needs its merges.txt in the same folder",
        "wordpiece.json": "is not byte-pair encoding",
        "gpt2.json": "is not byte-pair encoding",
        "no_end.json": "has no '<|startoftext|>' and '<|endoftext|>'",
        "end_first.json": "must be the last of its ids",
        "few.json": "it lacks 512 symbols",
    }


def test_a_damaged_vocabulary_is_named(tiny):
    for name, message in damaged_vocabularies(tiny).items():
        with pytest.raises(ConfigError) as error:
            open_tokenizer(f"clip:{tiny / name}", 77)
        assert message in str(error.value) and f"'{tiny / name}'" in str(error.value)


@pytest.mark.parametrize(
    "spec, length, texts, message",
    [
        ("bites", 77, [], "no such tokenizer: 'bites'"),
        (3, 77, [], "no such tokenizer: 3"),
        ("bytes:x", 77, [], "no such tokenizer: 'bytes:x'"),
        ("bytes", 2, [], "context_length must be an integer of at least 3"),
        ("bytes", 77.0, [], "got 77.0"),
        ("bytes", True, [], "got True"),
        ("bytes", 77, "a cat", "takes a list of texts, got the text 'a cat'"),
        ("bytes", 77, ["a", None], "takes texts, got NoneType None"),
        ("bytes", 77, [b"a cat"], "takes texts, got bytes b'a cat'"),
    ],
)
def test_bad_arguments(spec, length, texts, message):
    with pytest.raises(ConfigError) as error:
        open_tokenizer(spec, length)(texts)
    assert message in str(error.value)
