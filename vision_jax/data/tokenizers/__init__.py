"""Tokenizers: from captions to rows of token ids, and the specifications that name them."""

from vision_jax.data.tokenizers.base import Tokenizer as Tokenizer
from vision_jax.data.tokenizers.bytes import Bytes
from vision_jax.data.tokenizers.clip import Clip
from vision_jax.data.tokenizers.vocabulary import find_vocabulary
from vision_jax.errors import ConfigError


def open_tokenizer(spec: str, context_length: int) -> Tokenizer:
    """The tokenizer that `spec` names, for texts of up to `context_length` tokens, start and end included.

    Args:
        spec: "bytes", which needs no file; or CLIP's byte-pair encoding with its vocabulary: "clip" takes it from an
            installed open_clip_torch, "clip:FILE" from bpe_simple_vocab_16e6.txt.gz, from tokenizer.json, or from
            vocab.json with merges.txt beside it ("clip:FOLDER" where they lie), "clip:ORG/MODEL" from the Hugging Face
            Hub.

    Raises:
        ConfigError: the specification, the vocabulary or the length cannot be used; the message says what would be
            right, for a missing vocabulary where to get it, for a missing package how to install it.
    """
    kind, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == "bytes":
        return Bytes(context_length)
    if kind == "clip":
        return Clip(find_vocabulary(rest), context_length)
    raise ConfigError(f"no such tokenizer: {spec!r}; expected 'bytes', 'clip', 'clip:FILE' or 'clip:ORG/MODEL'")
