"""What all tokenizers share: turning texts of any length into rows of one length."""

from collections.abc import Sequence

import numpy as np

from vision_jax import limits
from vision_jax.errors import ConfigError


class Tokenizer:
    """Turns texts into rows of start, tokens, end and padding. It is picklable: every worker process gets a copy.

    Attributes:
        vocab_size: the ids are 0 to vocab_size - 1; 0 also pads.
        context_length: tokens in a row.
        end_id: the largest id, so that the argmax of a row is the position of its end.
    """

    def __init__(self, vocab_size: int, context_length: int):
        if type(context_length) is not int or context_length < 3:
            raise ConfigError(
                f"context_length must be an integer of at least 3, start and end included, got {context_length!r}"
            )
        self.vocab_size, self.context_length = vocab_size, context_length
        self.start_id, self.end_id = vocab_size - 2, vocab_size - 1

    def token_ids(self, text: str) -> list[int]:
        """The tokens of `text` without start and end, however many."""
        raise NotImplementedError

    def __call__(self, texts: Sequence[str], truncate: bool = True) -> np.ndarray:
        """int32[len(texts), context_length]; a longer text keeps its first tokens and the end token.

        Only the first `limits.TEXT_CHARACTERS` of a text are read.

        Raises:
            ConfigError: a text has too many tokens or characters and `truncate` is False, or is not a string.
        """
        if isinstance(texts, str):
            raise ConfigError(f"a tokenizer takes a list of texts, got the text {_abbreviated(texts)}")
        rows = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            if not isinstance(text, str):
                raise ConfigError(f"a tokenizer takes texts, got {type(text).__name__} {_abbreviated(text)}")
            if len(text) > limits.TEXT_CHARACTERS and not truncate:
                raise ConfigError(
                    f"the text {_abbreviated(text)} has {len(text):,} characters, more than the "
                    f"{limits.TEXT_CHARACTERS:,} that are read"
                )
            tokens = self.token_ids(text[: limits.TEXT_CHARACTERS])
            kept = tokens[: self.context_length - 2]
            if len(kept) < len(tokens) and not truncate:
                raise ConfigError(
                    f"the text {_abbreviated(text)} has {len(tokens) + 2} tokens, start and end included, and the "
                    f"context length is {self.context_length}"
                )
            row[: len(kept) + 2] = self.start_id, *kept, self.end_id
        return rows


def _abbreviated(value) -> str:
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 62 else f"{text[:60]}..."
