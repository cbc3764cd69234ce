"""Curation at size: captions matched to queries, and a capped choice of them; beside it, two ways to match without it.

    nice python experiments/benchmarks/curation.py                                       # 1,000,000 x 100,000
    nice python experiments/benchmarks/curation.py --captions=200000 --queries=500000    # the paper's number of queries

Words are drawn from a Zipf distribution over --vocabulary made-up words; a caption has 5 to 19 of them. Queries are the
most frequent words, and runs of two or three words drawn in the same way. The peers match the same normalised captions in
the same process: pyahocorasick's automaton, and a loop over the queries with Python's `in`, as MetaCLIP's
substr_matching.py has it, on so many captions as --sample says. Rates are per caption, so no sample is scaled up.
"""

import argparse
import resource
import time

import numpy as np

from vision_jax.data import curation


def make_words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Distinct words of 2 to 9 letters, the frequent ones mostly short."""
    words: dict[str, None] = {}
    while len(words) < count:
        letters = rng.integers(97, 123, (count, 9), dtype=np.uint8)
        lengths = np.clip(rng.poisson(np.linspace(3, 7, count)), 2, 9)
        words.update(dict.fromkeys(bytes(row[:n]).decode() for row, n in zip(letters, lengths, strict=True)))
    return np.array(list(words)[:count])


class Texts:
    """Texts of Zipf-distributed words."""

    def __init__(self, seed: int, vocabulary: int):
        self.rng = np.random.default_rng(seed)
        self.words = make_words(self.rng, vocabulary)
        weights = 1 / (np.arange(vocabulary) + 2.7)  # Mandelbrot's form
        self.cumulative = np.cumsum(weights / weights.sum())

    def draw(self, count: int, shortest: int, longest: int) -> list[str]:
        texts = []
        while len(texts) < count:
            lengths = self.rng.integers(shortest, longest + 1, min(count - len(texts), 50_000))
            ids = np.searchsorted(self.cumulative, self.rng.random(lengths.sum()))
            words = self.words[np.minimum(ids, len(self.words) - 1)].tolist()
            ends = np.cumsum(lengths).tolist()
            texts += [" ".join(words[end - n : end]) for end, n in zip(ends, lengths.tolist(), strict=True)]
        return texts

    def queries(self, count: int) -> list[str]:
        single = self.words[: count // 2].tolist()
        return list(dict.fromkeys(single + self.draw(4 * count, 2, 3)))[:count]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def loop_matches(captions: list[str], queries: list[str]) -> list[list[int]]:
    padded = [f" {query} " for query in queries]
    return [[i for i, query in enumerate(padded) if query in f" {caption} "] for caption in captions]


def automaton_matches(automaton, captions: list[str]) -> list[list[int]]:
    return [sorted({found for _, found in automaton.iter(f" {caption} ")}) for caption in captions]


def time_peers(captions: list[str], queries: list[str], ids: np.ndarray, offsets: np.ndarray, sample: int) -> None:
    """Prints the peers' rates, and stops where they find anything else than we do."""
    ours = [ids[offsets[i] : offsets[i + 1]].tolist() for i in range(len(captions))]
    found, seconds = timed(loop_matches, captions[:sample], queries)
    assert found == ours[:sample], "the loop over queries finds something else"
    print(f"loop over queries (MetaCLIP's): {sample / seconds:,.1f} captions/s, measured on {sample:,}")
    try:
        import ahocorasick
    except ImportError:
        print("pyahocorasick is not installed")
        return
    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)

    def build():
        for i, query in enumerate(queries):
            automaton.add_word(f" {query} ", i)
        automaton.make_automaton()

    _, building = timed(build)
    found, seconds = timed(automaton_matches, automaton, captions)
    assert found == ours, "pyahocorasick finds something else"
    print(
        f"pyahocorasick: built in {building:.2f} s, {len(captions) / seconds:,.0f} captions/s, measured on {len(captions):,}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--vocabulary", type=int, default=300_000)
    parser.add_argument("--max_per_query", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=200, help="captions for the loop over queries")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    texts = Texts(args.seed, args.vocabulary)
    captions, queries = texts.draw(args.captions, 5, 19), texts.queries(args.queries)
    print(f"{len(captions):,} captions, {len(queries):,} queries; peak memory with both {peak_megabytes():,.0f} MB")

    matcher, building = timed(curation.Matcher, queries)
    print(f"automaton built in {building:.2f} s; peak memory {peak_megabytes():,.0f} MB")
    (offsets, ids), matching = timed(matcher, captions)
    matched = int((np.diff(offsets) > 0).sum())
    print(f"matched at {len(captions) / matching:,.0f} captions/s ({matching:.1f} s), normalisation included;")
    print(f"{matched:,} captions with {len(ids):,} queries in them; peak memory {peak_megabytes():,.0f} MB")

    for count, counted in (("every", (offsets, ids)), ("rarest", curation.rarest_only(offsets, ids, len(queries)))):
        choices = [timed(curation.balance, *counted, len(queries), args.max_per_query, seed) for seed in (0, 0, 1)]
        (kept, seconds), (again, _), (other, _) = choices
        used = curation.count(curation.rows(*counted, kept), len(queries))
        assert used.max() <= args.max_per_query, "a cap is exceeded"
        assert np.array_equal(kept, again), "the same seed keeps others"
        assert len(kept) == matched or not np.array_equal(kept, other), "the seed does not decide"
        full = int((used == args.max_per_query).sum())
        print(
            f"--count={count}: kept {len(kept):,} in {seconds:.2f} s; caps hold (largest {used.max():,}, {full} queries full), "
            f"the same seed keeps the same; peak memory {peak_megabytes():,.0f} MB"
        )
    few = min(len(captions), 100_000)
    time_peers(captions[:few], queries, ids, offsets, min(args.sample, few))


if __name__ == "__main__":
    main()
