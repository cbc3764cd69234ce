"""Curation as CLIP's data set was built: which queries a caption contains, and a choice of pairs with a cap per query.

Radford et al. (2021), section 2.2: pairs "whose text includes one of a set of 500,000 queries", "including up to 20,000
(image, text) pairs per query". MetaCLIP (Xu et al., 2023, arXiv:2309.16671) reconstructs it with substring matching and
an independent draw per query, so that the counts hold on average; here they hold exactly.
"""

import array
import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from vision_jax import limits
from vision_jax.errors import not_installed

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_BETWEEN = " \n "  # between the captions of a pair; no query contains a line's end
_CHUNK = 2**16  # pairs
_PIECE = 2**10  # characters of a text to search at once: each may start many queries


def normalize(text: str) -> str:
    """Lower case, with a space for every run of characters that are not letters, digits or combining marks.

    Beyond ASCII, characters are replaced by their compatibility forms (NFKC). "Cats' food (T-shirts)" becomes "cats food
    t shirts", and "C++" becomes "c". Only the first `limits.TEXT_CHARACTERS` of a text count.
    """
    text = text[: limits.TEXT_CHARACTERS].lower()
    if text.isascii():
        return _SEPARATORS.sub(" ", text).strip()
    return _unicode_separators().sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


@functools.cache
def _unicode_separators() -> re.Pattern:
    marks = [i for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)).startswith("M")]
    breaks = np.flatnonzero(np.diff(marks) != 1)
    starts, ends = [marks[0], *np.array(marks)[breaks + 1]], [*np.array(marks)[breaks], marks[-1]]
    ranges = "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True))
    return re.compile(f"(?:[^\\w{ranges}]|_)+")


class Matcher:
    """Finds queries in texts in one pass of an Aho-Corasick automaton per text, whatever the number of queries.

    A text contains a query if the query's normalised words follow each other in the normalised text: "red cat" is in
    "My red-cat!" but not in "a bored cat" or "red cats". Scripts without spaces match only between punctuation.

    Args:
        queries: distinct, normalised and not empty.
    """

    def __init__(self, queries: Sequence[str]):
        try:
            import ahocorasick_rs
        except ImportError:
            raise not_installed("matching queries", "ahocorasick_rs") from None
        self._longest = max(map(len, queries), default=0) + 2  # with the spaces around it
        self._automaton = ahocorasick_rs.AhoCorasick([f" {query} " for query in queries], store_patterns=False)

    def __call__(self, texts: Iterable[str | Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """The queries that each text, or any of a pair's several texts, contains.

        Returns:
            offsets: int64[n + 1].
            ids: int32[offsets[n]]; ids[offsets[i]:offsets[i + 1]] are the numbers of text i's queries, ascending.
        """
        offsets, found = [0], array.array("i")
        for text in texts:
            words = normalize(text) if isinstance(text, str) else _BETWEEN.join(map(normalize, text))
            found.extend(sorted(self._found(f" {words} ")))
            offsets.append(len(found))
        return np.array(offsets, np.int64), np.array(found, np.int32)

    def _found(self, words: str) -> set[int]:
        found: set[int] = set()
        for start in range(0, len(words), _PIECE):
            piece = words[start : start + _PIECE + self._longest]
            found.update(match[0] for match in self._automaton.find_matches_as_indexes(piece, overlapping=True))
        return found


def match(texts: Iterable[str | Sequence[str]], queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`Matcher(queries)(texts)`."""
    return Matcher(queries)(texts)


def concatenate(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Joins the matches of several lists of texts, in order."""
    offsets, ids = zip(*parts, strict=True)
    lengths = np.concatenate([np.diff(part) for part in offsets])
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), np.concatenate(ids)


def count(ids: np.ndarray, num_queries: int) -> np.ndarray:
    """int64[num_queries]: how many texts contain each query."""
    return np.bincount(ids, minlength=num_queries)


def rarest_only(offsets: np.ndarray, ids: np.ndarray, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """The matches with only the rarest query of each text, the first of equally rare ones."""
    by_rarity = np.argsort(count(ids, num_queries), kind="stable")
    ranks = np.empty(num_queries, np.int32)
    ranks[by_rarity] = np.arange(num_queries)
    has = np.diff(offsets) > 0
    return np.concatenate([[0], np.cumsum(has)]), by_rarity[_least(ranks, ids, offsets[:-1][has])].astype(np.int32)


def balance(
    offsets: np.ndarray, ids: np.ndarray, num_queries: int, max_per_query: int = 20_000, seed: int = 0
) -> np.ndarray:
    """A choice of texts in which no query occurs more than `max_per_query` times, and to which no text can be added.

    Texts are offered one by one, and taken unless one of their queries is full; a text counts toward all its queries.
    Texts whose rarest query is rare come first: in powers of two of how many texts contain it, and within a power in an
    order drawn by the seed. So rare queries keep their texts as far as other queries have room, and frequent ones get a
    random choice of the rest. Texts without a query are never taken.

    Memory: up to 24 bytes per text and 8 bytes per match on top of the arguments.

    Args:
        offsets, ids: from `match`, each query at most once per text; or from `rarest_only`, so that a text counts only
            toward its rarest query.
        seed: an integer; the choice depends only on the seed and the order of texts and of queries.

    Returns:
        int64[k], ascending: the kept texts.
    """
    room = np.full(num_queries, max_per_query, np.int64)
    kept = []
    order = _serving_order(offsets, ids, num_queries, seed)
    for start in range(0, len(order), _CHUNK):
        texts = order[start : start + _CHUNK]
        texts = texts[~_any_per_text(room <= 0, offsets, ids, texts)]
        if not len(texts):
            continue
        # A text has to wait its turn only if one of its queries lacks room for all of this chunk's texts.
        scarce = count(rows(offsets, ids, texts), num_queries) > room
        waits = _any_per_text(scarce, offsets, ids, texts)
        taken = np.concatenate([texts[~waits], _first_come(texts[waits], offsets, ids, scarce, room)])
        room -= count(rows(offsets, ids, taken), num_queries)
        kept.append(taken)
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)


def _serving_order(offsets: np.ndarray, ids: np.ndarray, num_queries: int, seed: int) -> np.ndarray:
    texts = np.flatnonzero(np.diff(offsets) > 0)
    rarity = _least(count(ids, num_queries).astype(np.int32), ids, offsets[texts])
    _, power = np.frexp(rarity)
    return texts[np.lexsort((_scatter(texts, seed), power))]


def _least(values: np.ndarray, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The least value among each text's queries, for texts with queries; `starts`: where the ids of each start."""
    return np.minimum.reduceat(values[ids], starts) if len(starts) else values[:0]


def _scatter(numbers: np.ndarray, seed: int) -> np.ndarray:
    """uint64: a distinct random number for each number (SplitMix64; Steele et al., 2014).

    NumPy's own generators may change their streams between versions.
    """
    state = np.array([seed % 2**64], np.uint64)
    for value in (state, numbers.astype(np.uint64)):
        state = state + (value + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state = state ^ (state >> np.uint64(31))
    return state


def rows(offsets: np.ndarray, ids: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The queries of some texts, one text after the other."""
    lengths = offsets[texts + 1] - offsets[texts]
    shifts = offsets[texts] - (np.cumsum(lengths) - lengths)
    return ids[np.arange(lengths.sum()) + np.repeat(shifts, lengths)]


def _any_per_text(flags: np.ndarray, offsets: np.ndarray, ids: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """bool[len(texts)]: whether any of a text's queries has its flag set; each text has a query."""
    lengths = offsets[texts + 1] - offsets[texts]
    return np.logical_or.reduceat(flags[rows(offsets, ids, texts)], np.cumsum(lengths) - lengths)


def _first_come(
    texts: np.ndarray, offsets: np.ndarray, ids: np.ndarray, scarce: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """The texts that are taken when offered one by one; only scarce queries can reject a text."""
    left = dict(zip(np.flatnonzero(scarce).tolist(), room[scarce].tolist(), strict=True))
    queries = rows(offsets, ids, texts)
    ends = np.cumsum(offsets[texts + 1] - offsets[texts])
    before = np.concatenate([[0], np.cumsum(scarce[queries])])  # scarce ones among the first n queries
    bounds, wanted = before[np.concatenate([[0], ends])].tolist(), queries[scarce[queries]].tolist()
    taken = np.zeros(len(texts), bool)
    for i in range(len(texts)):
        contained = wanted[bounds[i] : bounds[i + 1]]
        if all(left[query] > 0 for query in contained):
            taken[i] = True
            for query in contained:
                left[query] -= 1
    return texts[taken]
