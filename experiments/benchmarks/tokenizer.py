"""Captions a second of CLIP's tokenizer, beside those of open_clip's SimpleTokenizer where that is installed.

    python experiments/benchmarks/tokenizer.py clip:FILE                     # captions made from the vocabulary's words
    python experiments/benchmarks/tokenizer.py clip:FILE --captions=FILE     # real ones, one a line

The two take turns, round by round, in one process; what counts is the ratio of neighbours, of which the median is
printed. A first round of other captions of the same kind fills the caches of both. Where the ids differ, it stops.
"""

import argparse
import importlib.util
import pathlib
import statistics
import time

import numpy as np

from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.data.tokenizers.vocabulary import find_vocabulary


def make_captions(spec: str, count: int, accented: float) -> list[str]:
    """Captions of 5 to 20 whole words of the vocabulary, drawn as often as Zipf's law has it, some with an accent."""
    names = find_vocabulary(spec.partition(":")[2]).ids
    words = [name.removesuffix("</w>") for name in names if name.endswith("</w>") and name[:-4].isalpha()]
    words = [word for word in words if word.isascii() and len(word) > 1]
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, len(words) + 1)
    captions = []
    for _ in range(count):
        caption = " ".join(rng.choice(words, rng.integers(5, 21), p=shares / shares.sum())).capitalize() + "."
        captions.append(caption.replace("e", "é", 1) if rng.random() < accented else caption)
    return captions


def rate(tokenize, captions: list[str], batch: int = 256) -> float:
    start = time.perf_counter()
    for i in range(0, len(captions), batch):
        tokenize(captions[i : i + batch])
    return len(captions) / (time.perf_counter() - start)


def open_peer(spec: str):
    """open_clip's tokenizer of the same file, or None."""
    file = spec.partition(":")[2]
    if importlib.util.find_spec("open_clip") is None or (file and not file.endswith(".gz")):
        return None
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(file) if file else SimpleTokenizer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tokenizer", help="clip, clip:FILE or clip:ORG/MODEL")
    parser.add_argument("--captions", default="", help="text file, a caption a line; half of it warms up")
    parser.add_argument("--count", type=int, default=20000, help="captions that are made, where no file is given")
    parser.add_argument("--accented", type=float, default=0.1, help="share of made captions that are not ASCII")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.captions:
        captions = pathlib.Path(args.captions).read_text(encoding="utf-8").splitlines()
    else:
        captions = make_captions(args.tokenizer, args.count, args.accented)
    warm, timed = captions[::2], captions[1::2]
    ours, peer = open_tokenizer(args.tokenizer, 77), open_peer(args.tokenizer)
    rate(ours, warm)
    if peer:
        rate(peer, warm)
        if not np.array_equal(ours(timed), peer(timed).numpy()):
            raise SystemExit("the two tokenizers differ")
    rows = [(rate(ours, timed), rate(peer, timed) if peer else 0.0) for _ in range(args.rounds)]
    print(f"{len(timed)} captions of {statistics.mean(map(len, timed)):.0f} characters, one thread")
    print(f"ours       {statistics.median(row[0] for row in rows):9.0f} captions/s")
    if peer:
        print(f"open_clip  {statistics.median(row[1] for row in rows):9.0f} captions/s")
        print(f"ratio      {statistics.median(a / b for a, b in rows):9.2f}")


if __name__ == "__main__":
    main()
