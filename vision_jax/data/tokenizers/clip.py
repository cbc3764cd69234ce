"""OpenAI's byte-pair encoding for CLIP (Radford et al., 2021; simple_tokenizer.py in openai/CLIP), exactly."""

import html
import importlib

from vision_jax.data.tokenizers.base import Tokenizer
from vision_jax.data.tokenizers.vocabulary import Vocabulary, byte_symbols
from vision_jax.errors import not_installed

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CACHED_WORDS = 2**16
_CACHED_LENGTH = 32  # characters


class Clip(Tokenizer):
    """Fixes, unescapes and lower-cases text and splits it into words, whose UTF-8 bytes are merged pair by pair.

    ftfy and regex are the original's packages, so that mojibake and Unicode classes are treated alike; the package
    tokenizers does the merges. The names of the start and end tokens in a text become these tokens, as in the original.

    Raises:
        ConfigError: a package is missing, or the vocabulary is not of CLIP's kind.
    """

    def __init__(self, vocabulary: Vocabulary, context_length: int):
        super().__init__(len(vocabulary.ids), context_length)
        ftfy, regex, models = map(_required, ("ftfy", "regex", "tokenizers.models"))
        self._vocabulary = vocabulary
        self._fix_text = ftfy.fix_text
        specials = "|".join(map(regex.escape, vocabulary.specials))
        self._split = regex.compile(f"{specials}|{_WORDS}", regex.IGNORECASE).findall
        self._model = models.BPE(vocabulary.ids, vocabulary.merges, end_of_word_suffix="</w>", cache_capacity=0)
        self._symbols = byte_symbols()
        # A few thousand words make up most captions; cached, they need neither bytes nor merges.
        self._cache = {name: (vocabulary.ids[name],) for name in vocabulary.specials}

    def __reduce__(self):
        return Clip, (self._vocabulary, self.context_length)

    def token_ids(self, text: str) -> list[int]:
        cached = self._cache.get
        return [id for word in self._split(self._clean(text)) for id in cached(word) or self._merged(word)]

    def _clean(self, text: str) -> str:
        # Most captions are printable ASCII without entities. ftfy leaves those alone, but takes longer than all the rest.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(self._fix_text(text)))
        # The original collapses regex's \s, to which str.split adds \x1c to \x1f: ftfy removes all of these.
        return " ".join(text.split()).lower()

    def _merged(self, word: str) -> tuple[int, ...]:
        symbols = "".join(self._symbols[byte] for byte in word.encode())
        ids = tuple(token.id for token in self._model.tokenize(symbols))
        if len(self._cache) < _CACHED_WORDS and len(word) <= _CACHED_LENGTH:
            self._cache[word] = ids
        return ids


def _required(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise not_installed("CLIP's tokenizer", name.partition(".")[0], "ftfy regex tokenizers") from None
