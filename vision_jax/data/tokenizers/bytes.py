"""The tokenizer that needs no vocabulary: the bytes of the text."""

from vision_jax.data.tokenizers.base import Tokenizer


class Bytes(Tokenizer):
    """UTF-8: byte b is token b + 1, start 257, end 258; a lone surrogate, which cannot be encoded, becomes '?'."""

    def __init__(self, context_length: int):
        super().__init__(vocab_size=259, context_length=context_length)

    def token_ids(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode("utf-8", errors="replace")]
