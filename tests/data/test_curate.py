import importlib.util
import io
import json
import pathlib
import sys
import tarfile
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.data import curate, curation, open_source
from vision_jax.errors import ConfigError

WORDS = st.text("ab1 -,!'\nÀßé猫\u0301\u0915\u093f_", max_size=6)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


def words_of(text):
    """The words of a text, found character by character."""
    text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in text).split()


def contains(text, query):
    text, query = words_of(text), words_of(query)
    return any(text[i : i + len(query)] == query for i in range(len(text) - len(query) + 1))


def csr(rows):
    return np.cumsum([0, *map(len, rows)]), np.array([q for row in rows for q in row], np.int32)


@settings(deadline=None)
@given(st.text(max_size=30) | TEXTS)
def test_normalized_text_is_the_words(text):
    assert curation.normalize(text) == " ".join(words_of(text))


def test_normalize():
    assert curation.normalize("  Cats' food\t(T-shirts) ") == "cats food t shirts"
    assert curation.normalize("Ｆｕｌｌ ＣＡＦÉ — cafe\u0301's") == "full café café s"
    assert curation.normalize("हिन्दी") == "हिन्दी" and curation.normalize("C++ !") == "c"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(TEXTS | st.lists(TEXTS, max_size=3).map(tuple), max_size=6),
    st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join).filter(words_of), max_size=8),
)
def test_matches_are_those_of_a_loop_over_queries(texts, queries):
    queries = list(dict.fromkeys(map(curation.normalize, queries)))
    offsets, ids = curation.match(iter(texts), queries)
    assert offsets.dtype == np.int64 and ids.dtype == np.int32 and offsets[0] == 0 and len(offsets) == len(texts) + 1
    for i, text in enumerate(texts):
        several = [text] if isinstance(text, str) else text
        expected = [q for q, query in enumerate(queries) if any(contains(one, query) for one in several)]
        assert ids[offsets[i] : offsets[i + 1]].tolist() == expected


def test_matches_overlap_and_keep_to_whole_words():
    queries = ["red", "red cat", "cat", "cat on", "a red cat on a mat", "at", "mat"]
    _, ids = curation.match(["A red-cat, on a MAT!", "reds at cats", ("the red", "cat on it")], queries)
    assert ids.tolist() == [0, 1, 2, 3, 4, 6, 5, 0, 2, 3]


def test_long_texts_are_searched_in_pieces():
    """Matches lie in any piece, or over its end, and many queries begin at one place."""
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(["a", "b", "cat", "dog"], 3000))
    queries = sorted(
        {curation.normalize(text[i : i + length]) for i in rng.integers(0, 9000, 200) for length in (5, 900)}
    )
    queries += [" ".join("a" * count) for count in range(1, 400)]
    queries = list(dict.fromkeys(filter(None, queries)))
    _, ids = curation.match([text], queries)
    assert ids.tolist() == [q for q, query in enumerate(queries) if f" {query} " in f" {curation.normalize(text)} "]
    assert len(text) > 5 * curation._PIECE and len(ids) > 100


def sequential(rows, num_queries, cap, seed):
    """The definition of `balance`, pair by pair."""
    totals = np.bincount([q for row in rows for q in row], minlength=num_queries)
    matched = np.array([i for i, row in enumerate(rows) if row], np.int64)
    draws = dict(zip(matched.tolist(), curation._scatter(matched, seed).tolist(), strict=True))
    used, kept = np.zeros(num_queries, int), []
    for i in sorted(matched.tolist(), key=lambda i: (int(min(totals[q] for q in rows[i])).bit_length(), draws[i])):
        if all(used[q] < cap for q in rows[i]):
            used[list(rows[i])] += 1
            kept.append(i)
    return sorted(kept)


@settings(deadline=None, max_examples=150)
@given(
    data=st.lists(st.sets(st.integers(0, 9), max_size=4).map(sorted), max_size=80),
    cap=st.integers(1, 12),
    seed=st.integers(-3, 2**40),
    chunk=st.sampled_from([1, 3, 16, 2**16]),
)
def test_caps_hold_exactly_and_nothing_can_be_added(data, cap, seed, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curation, "_CHUNK", chunk)
        kept = curation.balance(*csr(data), 10, cap, seed).tolist()
    assert kept == sequential(data, 10, cap, seed)
    used = np.bincount([q for i in kept for q in data[i]], minlength=10)
    assert (used <= cap).all()
    for i in set(range(len(data))) - set(kept):
        assert not data[i] or any(used[q] == cap for q in data[i])


def zipf(pairs=3000, queries=200, seed=0):
    rng = np.random.default_rng(seed)
    return [sorted(set((rng.zipf(1.3, rng.integers(0, 6)) - 1).tolist()) & set(range(queries))) for _ in range(pairs)]


def test_seeds_choose():
    matches = csr(zipf())
    choices = [curation.balance(*matches, 200, 20, seed).tolist() for seed in (0, 0, 1, 2)]
    assert choices[0] == choices[1] and len({tuple(choice) for choice in choices}) == 3
    many_rare = csr([[0, 1 + i % 70] for i in range(100)])
    assert len({tuple(curation.balance(*many_rare, 71, 20, seed)) for seed in range(5)}) == 5


def test_a_seeds_choice_is_the_same_on_every_machine_and_version():
    matches = csr([[i % 3, 3 + i % 5] for i in range(60)])
    kept = curation.balance(*matches, 8, 4, seed=7).tolist()
    assert kept == [3, 12, 19, 21, 39, 43, 44, 46, 47, 55, 56, 59]


def splitmix64(state):
    """Steele et al. (2014), figure 2, as a stream."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def test_random_numbers_are_splitmix64s():
    stream = splitmix64(next(splitmix64(0)))
    assert next(splitmix64(0)) == 0xE220A8397B1DCDAF  # the published one
    assert curation._scatter(np.arange(1000), 0).tolist() == [next(stream) for _ in range(1000)]


def test_a_query_is_sampled_evenly():
    """Of 2,000 pairs with one query, each is as likely to be kept."""
    matches = csr([[0]] * 2000)
    counts = sum(np.bincount(curation.balance(*matches, 1, 500, seed), minlength=2000) for seed in range(200))
    assert abs(counts.mean() - 50) < 1e-9 and 0.9 < counts.var() / (200 * 0.25 * 0.75) < 1.1
    halves = counts[:1000].mean(), counts[1000:].mean()
    assert abs(halves[0] - halves[1]) < 1


def test_rarest_only():
    rows = [[0, 1], [0], [], [0, 1, 2], [0, 2], [2, 3]]
    offsets, ids = curation.rarest_only(*csr(rows), 5)
    assert offsets.tolist() == [0, 1, 2, 2, 3, 4, 5] and ids.tolist() == [1, 0, 1, 2, 3]
    matches = csr(zipf())
    counted = curation.rarest_only(*matches, 200)
    assert len(curation.balance(*counted, 200, 20)) > 1.5 * len(curation.balance(*matches, 200, 20))


def test_concatenated_parts():
    texts, queries = ["a b", "", "b", "c a", "x"], ["a", "b", "c a"]
    whole = curation.match(texts, queries)
    parts = curation.concatenate(
        [curation.match(texts[:0], queries), curation.match(texts[:3], queries), curation.match(texts[3:], queries)]
    )
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.fixture
def shards(tmp_path):
    """Captions of two to six letters from a to z, the first of them common, in 3 shards of 40; of each, one is damaged."""
    rng = np.random.default_rng(1)
    captions = {}
    (tmp_path / "tars").mkdir()
    for shard in range(3):
        with tarfile.open(tmp_path / "tars" / f"{shard}.tar", "w") as archive:
            for i in range(40):
                text = " ".join(chr(97 + min(n, 26) - 1) for n in rng.zipf(1.5, rng.integers(2, 7)))
                caption = b"\xff" if i == 7 else text.encode()
                for name, data in ((f"{i}.jpg", f"picture {shard} {i}".encode()), (f"{i}.txt", caption)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                if i != 7:
                    captions[f"picture {shard} {i}".encode()] = text
    (tmp_path / "queries.txt").write_text("\ufeffA\nb\n\n c \nC\nd e\n?!\nzebra\nq\n", encoding="utf-8")
    return tmp_path, captions


def command(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["curate", *args])
        curate.main()


def kept_by(spec):
    source = open_source(f"wds:{spec}")
    examples = [source[i] for i in range(len(source))]
    assert len({e["name"] for e in examples}) == len(examples)
    return {e["image"]: e["captions"] for e in examples}


@pytest.mark.parametrize("count", ["every", "rarest"])
def test_the_selection_is_what_the_source_delivers(shards, count, capsys, monkeypatch):
    root, captions = shards
    args = [
        f"--shards={root}/tars/{{0..2}}.tar",
        f"--queries={root}/queries.txt",
        "--max_per_query=9",
        f"--count={count}",
    ]
    for name, more in (("a", []), ("b", []), ("c", ["--seed=1"])):
        command(*args, f"--out={root}/{name}.npz", *more)
    first, again, other = (kept_by(f"{root}/{name}.npz") for name in "abc")
    assert first == again and (root / "a.npz").read_bytes() == (root / "b.npz").read_bytes() and first != other
    assert all(captions[image] == text for image, (text,) in first.items())
    queries = ["a", "b", "c", "d e", "zebra", "q"]
    found = {image: [q for q, query in enumerate(queries) if contains(text, query)] for image, text in captions.items()}
    rows = list(found.values())
    counted = rows
    if count == "rarest":
        totals = np.bincount([q for row in rows for q in row], minlength=6)
        counted = [[min(row, key=lambda q: (totals[q], q))] if row else [] for row in rows]
    assert list(first) == [list(found)[i] for i in sequential(counted, 6, 9, 0)]
    report = json.loads((root / "a.json").read_text())
    kept = [found[image] for image in first]
    assert (
        report["pairs"] == 117 and report["pairs_matched"] == sum(map(bool, rows)) and report["pairs_kept"] == len(kept)
    )
    assert report["queries"] == 6 and report["query_lines_merged"] == 1 and report["query_lines_without_words"] == 1
    assert report["first_unmatched"][-1] == "zebra" and report["queries_kept"] == len({q for row in kept for q in row})
    assert report["most_frequent"][0] == ["a", sum(0 in row for row in rows), sum(0 in row for row in kept)]
    assert report["skipped"]["caption is not text"]["count"] == 3
    if count == "every":
        assert max(used for _, _, used in report["most_frequent"]) == 9
        assert report["queries_full"] == sum(used == 9 for _, _, used in report["most_frequent"])
    assert f"kept {len(kept)} of 117 pairs" in capsys.readouterr().out


def test_worker_processes_change_nothing(shards):
    root, _ = shards
    args = [f"--shards={root}/tars/*.tar", f"--queries={root}/queries.txt", "--max_per_query=5"]
    command(*args, f"--out={root}/a.npz")
    command(*args, f"--out={root}/b.npz", "--workers=2")
    assert (root / "a.npz").read_bytes() == (root / "b.npz").read_bytes()


def test_a_selection_moves_with_its_shards_and_knows_them(shards, tmp_path):
    root, _ = shards
    command(f"--shards={root}/tars/*.tar", f"--queries={root}/queries.txt", f"--out={root}/a.npz")
    before = kept_by(root / "a.npz")
    (tmp_path / "new").mkdir()
    for name in ("tars", "a.npz"):
        (root / name).rename(tmp_path / "new" / name)
    assert kept_by(tmp_path / "new" / "a.npz") == before
    (tmp_path / "new" / "tars" / "1.tar").write_bytes((tmp_path / "new" / "tars" / "0.tar").read_bytes()[:20000])
    with pytest.raises(ConfigError, match=r"1\.tar' is not the one that .* curate again"):
        kept_by(tmp_path / "new" / "a.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shards": "{root}/tars/{{0..3}}.tar"}, "3.tar' cannot be read: No such file"),
        ({"shards": "{root}/a.npz"}, "takes tar files"),
        ({"queries": "{root}/none.txt"}, "cannot read '{root}/none.txt': No such file"),
        ({"queries": "{root}/tars/0.tar"}, "0.tar' is not UTF-8 text (byte"),
        ({"queries": "{root}/empty.txt"}, "empty.txt' holds no query"),
        ({"queries": "{root}/unknown.txt"}, "none of the 117 pairs"),
        ({"out": "{root}/a.tar"}, "--out must end in .npz"),
        ({"out": "{root}/none/a.npz"}, "there is no folder '{root}/none'"),
        ({"max_per_query": "0"}, "--max_per_query must be at least 1, got 0"),
        ({"workers": "-1"}, "--workers must be at least 0"),
        ({"seed": "x"}, "--seed: invalid int value: 'x'"),
        ({"count": "all"}, "--count: invalid choice: 'all'"),
    ],
)
def test_errors_are_one_line(shards, change, message, capsys):
    root, _ = shards
    (root / "empty.txt").write_text("\n ,.\n")
    (root / "unknown.txt").write_text("unknown\n")
    args = {"shards": "{root}/tars/*.tar", "queries": "{root}/queries.txt", "out": "{root}/out.npz", **change}
    with pytest.raises(SystemExit) as error:
        command(*(f"--{key}={value.format(root=root)}" for key, value in args.items()))
    assert error.value.code == 2 and not (root / "out.npz").exists()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message.format(root=root) in line


def test_a_missing_automaton_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ahocorasick_rs", None)
    with pytest.raises(ConfigError, match="pip install ahocorasick_rs"):
        curation.match(["a"], ["a"])


def test_the_benchmark_runs_small(capsys):
    path = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "curation.py"
    spec = importlib.util.spec_from_file_location("curation_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--captions=2000", "--queries=300", "--max_per_query=20", "--sample=100"])
    out = capsys.readouterr().out
    assert "caps hold" in out and "captions/s" in out
