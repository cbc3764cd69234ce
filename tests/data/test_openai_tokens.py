"""Token ids against OpenAI's tokenizer, where its vocabulary is at hand."""

import html
import importlib.util
import os
import pathlib
import random

import numpy as np
import pytest

from vision_jax.data.tokenizers import open_tokenizer

FILE = "bpe_simple_vocab_16e6.txt.gz"
SPECIALS = ["<|startoftext|>", "<|endoftext|>"]

# What OpenAI's tokenizer gives, start and end left out.
PAIRS = [
    ("a photo of a cat", [320, 1125, 539, 320, 2368]),
    ("A SMALL red Circle,   left of\ta blue square!", [320, 2442, 736, 7117, 267, 1823, 539, 320, 1746, 3999, 256]),
    ("it's 1984 & they've won't", [585, 568, 272, 280, 279, 275, 261, 889, 1200, 1749, 713]),
    ("&amp;lt;3 &amp;eacute;", [283, 274, 4166]),
    ("schÃ¶n voilÃ  âœ”", [844, 7255, 333, 947, 543, 21259, 13749]),
    ("na\xefve Fa\xe7ade: e\u0301t\xe9", [1097, 35689, 563, 778, 10067, 1928, 281, 3459, 39694]),
    ("\U0001f469\u200d\U0001f680 \u2764\ufe0f\U0001f525", [26304, 13542, 2626, 3016]),
    ("你好 мир नमस्ते", [47466, 254, 29290, 377, 38018, 16701, 141, 478, 3124, 101, 48254, 28505, 19389, 27263, 25130]),
    ("٠१2½", [149, 510, 7410, 356, 273, 33613]),
    ("\ufb01ne \uff21\uff22", [3797, 3937]),
    ("<|startoftext|>a<|endoftext|>", [49406, 320, 49407]),
    ("antidisestablishmentarianism \u200b\ue000", [3120, 4262, 7726, 12658, 1585, 44351, 17086, 36288, 478]),
    ("", []),
    (" \n\u3000", []),
]

NASTY = [
    "",
    " ",
    "\n\t\r\u2003\u3000",
    "👨‍👩‍👧‍👦 👩🏽‍🚀🏳️‍🌈 ❤️‍🔥",
    "🇩🇪🇯🇵 1️⃣2️⃣ #️⃣",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "e\u0301 \u00e9 o\u0308 \u1e69\u0323 a\u0300\u0301\u0302",
    "&amp;lt;b&amp;gt; &amp;amp;amp; &lt;br&gt; &#x1F600; &amp;#39; &nbsp;&notit; &#0; &#xD800; &#28; &NewLine;x",
    "a &amp; b < c &lt; d",
    "Привет мир, 你好世界 مرحبا بالعالم שלום नमस्ते ไทย 한국어 日本語のテキスト",
    "mixedсмешанный混合text한글ελληνικά123४५६",
    "٠١٢٣ ०१२३ ๐๑๒ ௧௨௩ Ⅷ ½ ² ① 〇 𝟘𝟙𝟚",
    "schÃ¶n voilÃ  le travail â€œquotesâ€\x9d âœ” No problems",
    "l’humanitÃ© ï»¿ Ã¯Â»Â¿ \ufeff bom",
    "\x00\x01\x02 \x1b[31mred\x1b[0m \x7f \x80\x85\x9f \x1c\x1d\x1e\x1f.",
    "\u200b\u200d\u2060\u00ad\u202e\u2066 zero\u200bwidth",
    "\ue000\uf8ff\U000f0000\U0010fffd private",
    "ＦＵＬＬ　ｗｉｄｔｈ ﬁligature ﬃ “curly” ‘quotes’",
    "İstanbul ISTANBUL ıI ſ 'ſ K Å ß ẞ ΑΣ Σ",
    "it's I'M YOU'RE we'll he'd they've don't 'sweet ''s 's's'",
    "<|startoftext|> a <|endoftext|>",
    "a<|ENDOFTEXT|>b !<|startoftext|> <|startoftext|><|endoftext|>|> <|ſtartoftext|> <start_of_text>",
    "</w> ġ Ġ Ċ <unk> \\n \\x41",
    "!" * 300 + "?" * 77,
    "a" * 10_000,
    "lorem ipsum, 123 " * 600,
    "é" * 5_000 + "字" * 5_000,
    "\U0001f469\u200d" * 2_000,
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "\ud800 lone \udfff surrogates \ud83d\ude00",
]


def generated_texts(count: int) -> list[str]:
    """Texts of pieces of many kinds, from ASCII words to unassigned code points, some spoilt or escaped."""
    rng = random.Random(0)
    ranges = [
        (0x21, 0x7E), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF),
        (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF),
        (0x2000, 0x206F), (0x20A0, 0x214F), (0x2150, 0x218F), (0x2200, 0x27BF), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10300, 0x1034F),
        (0x1D400, 0x1D7FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF),
        (0xE0100, 0xE01EF), (0xF0000, 0xFFFFD),
    ]  # fmt: skip
    sentence = "a photo of The dog's 2nd CAT, isn't it? 1984 &amp; &lt; &quot; &eacute; &#x4e2d; <b> 's http://x.y/z"
    words = [*sentence.split(), *SPECIALS, "<|EndOfText|>", "\u200d", " ", "\t", "\u00a0", "café", "naïve", "Ünïcödé"]

    def piece() -> str:
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(words)
        start, stop = rng.choice(ranges)
        text = "".join(chr(rng.randint(start, stop)) for _ in range(rng.randint(1, 8)))
        if kind > 0.95:
            return html.escape(html.escape(text))
        if kind > 0.85:
            return text.encode("utf-8").decode(rng.choice(["latin-1", "cp1252", "cp437"]), errors="replace")
        return text

    return [rng.choice(["", " "]).join(piece() for _ in range(rng.randint(0, 14))) for _ in range(count)]


@pytest.fixture(scope="module")
def spec() -> str:
    """CLIP's tokenizer with the official vocabulary, from the folder of test data or an installed open_clip."""
    pytest.importorskip("ftfy")
    pytest.importorskip("regex")
    pytest.importorskip("tokenizers")
    file = pathlib.Path(os.environ.get("VISION_JAX_TEST_DATA", "")) / FILE
    if file.is_file():
        return f"clip:{file}"
    if importlib.util.find_spec("open_clip"):
        return "clip"
    pytest.skip(f"{FILE} is neither in $VISION_JAX_TEST_DATA nor in an installed open_clip")


@pytest.fixture(scope="module")
def oracle(spec):
    """OpenAI's encode: open_clip's copy of it with the special tokens spelt as OpenAI has them."""
    regex = pytest.importorskip("regex")
    SimpleTokenizer = pytest.importorskip("open_clip.tokenizer", exc_type=ImportError).SimpleTokenizer
    path = spec.partition(":")[2]
    oracle = SimpleTokenizer(path) if path else SimpleTokenizer()
    for ours, theirs in zip(SPECIALS, ("<start_of_text>", "<end_of_text>"), strict=True):
        oracle.encoder[ours] = oracle.encoder.pop(theirs)
        oracle.cache[ours] = oracle.cache.pop(theirs).replace(theirs, ours)
    pattern = oracle.pat.pattern.replace("<start_of_text>|<end_of_text>", r"<\|startoftext\|>|<\|endoftext\|>")
    assert "startoftext" in pattern
    oracle.pat = regex.compile(pattern, regex.IGNORECASE)
    return oracle


def test_ids_are_openais_on_2000_generated_texts(spec, oracle):
    tokenizer, texts = open_tokenizer(spec, 77), generated_texts(2000)
    assert sum(not text.isascii() for text in texts) > 1000 and sum("endoftext" in text for text in texts) > 50
    for text in texts:
        assert tokenizer.token_ids(text) == oracle.encode(text), repr(text)
    np.testing.assert_array_equal(tokenizer(texts), oracle(texts).numpy())


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_ids_are_openais_on_nasty_texts(spec, oracle, text):
    tokenizer = open_tokenizer(spec, 77)
    assert tokenizer.token_ids(text) == oracle.encode(text)
    np.testing.assert_array_equal(tokenizer([text]), oracle([text]).numpy())


@pytest.mark.parametrize("text, ids", PAIRS)
def test_recorded_ids(spec, text, ids):
    tokenizer = open_tokenizer(spec, 77)
    assert (
        tokenizer.token_ids(text) == ids and tokenizer.token_ids(text) == ids
    )  # made the first time, remembered the second
    row = tokenizer([text])[0]
    assert tokenizer.vocab_size == 49408 and row.shape == (77,)
    assert row.tolist() == [49406, *ids, 49407] + [0] * (75 - len(ids))
