"""Chooses pairs from tar shards as CLIP's data set was built: captions that contain a query, so many a query at most.

    python -m vision_jax.data.curate --shards='cc12m/{0000..1099}.tar' --queries=queries.txt --out=cc12m.npz

Writes a selection that the source `wds:cc12m.npz` reads, and a report on coverage beside it, cc12m.json. Queries are the
lines of a text file. How captions are matched, and how the pairs are chosen, is told in vision_jax/data/curation.py.

A pair that is kept counts toward every query that it contains, so that no query has more than --max_per_query of the
pairs that are kept. A very frequent query, such as "the", thus refuses most of what contains it; the report names those
queries. With --count=rarest a pair counts toward the rarest of its queries alone: the cap then holds for the pairs that
a query brings, as a search for it would, and frequent queries may be contained in more.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from vision_jax import limits
from vision_jax.command_line import Parser, report_errors
from vision_jax.data import curation
from vision_jax.data.shards import selection
from vision_jax.data.shards.index import index_of, read_indexes
from vision_jax.data.shards.pairs import Shard, find_shard, read_captions
from vision_jax.data.sources.wds import expand, skipped_lines
from vision_jax.errors import ConfigError
from vision_jax.files import printable, read_regular

_SHOWN = 20  # queries that the report names


def read_queries(path: str) -> tuple[list[str], collections.Counter]:
    """The distinct normalised queries of a file, in order, and how many of its lines were "merged" or "wordless"."""
    try:
        text = read_regular(os.path.expanduser(path), limits.QUERIES_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--queries: cannot read '{printable(path)}': {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--queries: '{printable(path)}' is not UTF-8 text (byte {error.start})") from None
    queries: dict[str, None] = {}
    left_out, size = collections.Counter(merged=0, wordless=0), 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        query = curation.normalize(line)
        if max(len(line), len(query)) > limits.CLASS_NAME_CHARACTERS:
            raise ConfigError(
                f"--queries: line {number} of '{printable(path)}' has more than {limits.CLASS_NAME_CHARACTERS:,} characters"
            )
        if not query or query in queries:
            left_out["merged" if query else "wordless"] += 1
            continue
        queries[query] = None
        size += len(query.encode())
        if size > limits.QUERIES_BYTES:
            raise ConfigError(
                f"--queries: '{printable(path)}' holds more than {limits.QUERIES_BYTES:,} bytes of queries"
            )
    if not queries:
        raise ConfigError(f"--queries: '{printable(path)}' holds no query; expected one a line")
    return list(queries), left_out


def match_shards(shards: Sequence[Shard], queries: Sequence[str], workers: int) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, ids) for the pairs of all shards, the same for any number of worker processes; 0: in this process."""
    with contextlib.ExitStack() as stack:
        if workers:
            pool = ProcessPoolExecutor(min(workers, len(shards)), get_context("spawn"), _start, (queries,))
            parts = stack.enter_context(pool).map(_match_shard, shards)
        else:
            _start(queries)
            parts = map(_match_shard, shards)
        try:
            return curation.concatenate(_watched(parts, len(shards)))
        except OSError as error:
            raise ConfigError(f"--shards: {printable(error, 400)}") from error


def _start(queries: Sequence[str]) -> None:
    global _matcher
    _matcher = curation.Matcher(queries)


def _match_shard(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    return _matcher(read_captions(shard, pair) for pair in index_of(shard).pairs)


def _watched(parts: Iterator, total: int) -> Iterator:
    start = told = time.monotonic()
    pairs = 0
    for number, part in enumerate(parts, 1):
        pairs += len(part[0]) - 1
        now = time.monotonic()
        if now - told > 10:
            told, rate = now, pairs / (now - start)
            print(
                f"matched {number} of {total} shards, {pairs:,} pairs, {rate:,.0f} pairs/s", file=sys.stderr, flush=True
            )
        yield part


def summarize(offsets: np.ndarray, ids: np.ndarray, kept: np.ndarray, queries: Sequence[str]) -> dict:
    """What was found and kept, by pairs and by queries, for the report."""
    before = curation.count(ids, len(queries))
    lengths = np.diff(offsets)
    chosen = np.zeros(len(lengths), bool)
    chosen[kept] = True
    after = curation.count(ids[np.repeat(chosen, lengths)], len(queries))
    frequent = np.argsort(-before, kind="stable")[:_SHOWN]
    unmatched = np.flatnonzero(before == 0)
    return {
        "pairs": len(lengths),
        "pairs_matched": int((lengths > 0).sum()),
        "pairs_kept": len(kept),
        "queries": len(queries),
        "queries_matched": int((before > 0).sum()),
        "queries_kept": int((after > 0).sum()),
        "queries_unmatched": len(unmatched),
        "coverage": float((after > 0).mean()),
        "pairs_per_query": {"matched": _distribution(before), "kept": _distribution(after)},
        "queries_per_pair": {"matched": _distribution(lengths[lengths > 0]), "kept": _distribution(lengths[kept])},
        "most_frequent": [[queries[i], int(before[i]), int(after[i])] for i in frequent],
        "first_unmatched": [queries[i] for i in unmatched[:_SHOWN]],
    }


def _distribution(counts: np.ndarray) -> dict[str, float]:
    if not len(counts):
        return {}
    quantiles = {f"{q}%": float(np.percentile(counts, q)) for q in (10, 50, 90, 99)}
    return {"mean": float(counts.mean()), **quantiles, "max": int(counts.max())}


def curate(shards: str, queries: str, out: str, max_per_query: int, seed: int, count: str, workers: int) -> dict:
    """Writes the selection and its report, and returns the report; the arguments are those of the command."""
    out = os.path.expanduser(out)
    if not out.endswith(selection.SUFFIX):
        raise ConfigError(f"--out must end in {selection.SUFFIX}, got '{out}'")
    if not os.path.isdir(os.path.dirname(out) or "."):
        raise ConfigError(f"--out: there is no folder '{os.path.dirname(out)}'")
    if shards.endswith(selection.SUFFIX):
        raise ConfigError(f"--shards takes tar files, not a selection, got '{shards}'")
    lines, left_out = read_queries(queries)
    files = [find_shard(path, "--shards") for path in expand(shards)]
    offsets, ids = match_shards(files, lines, workers)
    lengths, skipped = read_indexes(files, "--shards")
    if not len(ids):
        raise ConfigError(f"none of the {len(offsets) - 1} pairs in '{shards}' contains any query of '{queries}'")
    counted = curation.rarest_only(offsets, ids, len(lines)) if count == "rarest" else (offsets, ids)
    kept = curation.balance(*counted, len(lines), max_per_query, seed)
    full = curation.count(curation.rows(*counted, kept), len(lines)) >= max_per_query
    report = {
        "shards": shards,
        "queries_file": queries,
        "max_per_query": max_per_query,
        "seed": seed,
        "count": count,
        **summarize(offsets, ids, kept, lines),
        "queries_full": int(full.sum()),
        "query_lines_merged": left_out["merged"],
        "query_lines_without_words": left_out["wordless"],
        "skipped": {reason: dict(count=number, first=names) for reason, (number, names) in skipped.items()},
    }
    try:
        selection.write(out, files, lengths, kept)
        pathlib.Path(out).with_suffix(".json").write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8", "replace"
        )
    except OSError as error:
        raise ConfigError(f"--out: cannot write '{out}': {error.strerror}") from error
    for line in skipped_lines(skipped):
        print(f"skipped {line}", file=sys.stderr)
    return report


@report_errors
def main() -> None:
    parser = Parser("vision_jax.data.curate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", required=True, help="tar shards as in the source wds:, e.g. 'PATH/{000..099}.tar'")
    parser.add_argument("--queries", required=True, help="text file with a query a line")
    parser.add_argument("--out", required=True, help="selection to write, a file name that ends in .npz")
    parser.add_argument("--max_per_query", type=int, default=20_000, help="pairs a query at most (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pairs (default: 0)")
    parser.add_argument(
        "--count", choices=("every", "rarest"), default="every", help="toward which of its queries a pair counts"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that match (default: 0, this one alone)")
    args = parser.parse_args()
    if args.max_per_query < 1:
        raise ConfigError(f"--max_per_query must be at least 1, got {args.max_per_query}")
    if args.workers < 0:
        raise ConfigError(f"--workers must be at least 0, got {args.workers}")
    report = curate(**vars(args))
    print(
        f"{printable(args.out)}: kept {report['pairs_kept']:,} of {report['pairs']:,} pairs, of which {report['pairs_matched']:,} "
        f"contain a query; of {report['queries']:,} queries {report['queries_matched']:,} occur, "
        f"{report['queries_kept']:,} are kept ({report['coverage']:.1%}) and {report['queries_full']:,} are full"
    )


if __name__ == "__main__":
    main()
