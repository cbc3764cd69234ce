"""Tokenizers, which turn captions into rows of token ids, and the specifications that name them."""

from vision_jax import parts
from vision_jax.data.tokenizers.base import Tokenizer as Tokenizer
from vision_jax.data.tokenizers.bytes import Bytes
from vision_jax.data.tokenizers.clip import Clip
from vision_jax.data.tokenizers.vocabulary import find_vocabulary
from vision_jax.errors import ConfigError

TOKENIZER = "'bytes', 'clip', 'clip:FILE', 'clip:ORG/MODEL', or 'package.module:Attribute' of your own"


def open_tokenizer(spec: str, context_length: int) -> Tokenizer:
    """The tokenizer that `spec` names, for texts of up to `context_length` tokens, including start and end.

    Args:
        spec: "bytes", which needs no file; or CLIP's byte-pair encoding with its vocabulary: "clip" takes it from an
            installed open_clip_torch, "clip:FILE" from bpe_simple_vocab_16e6.txt.gz, from tokenizer.json, or from
            vocab.json with merges.txt next to it ("clip:FOLDER" for their folder), "clip:ORG/MODEL" from the Hugging
            Face Hub; "package.module:Attribute" or "package.module:Attribute:REST" for your own, which is called with
            REST, if given, and the context length.

    Raises:
        ConfigError: the specification, the vocabulary or the length cannot be used; the message says how to fix it,
            where to get a missing vocabulary, or how to install a missing package.
    """
    kind, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == "bytes":
        return Bytes(context_length)
    if kind == "clip":
        return Clip(find_vocabulary(rest), context_length)
    if kind == "bytes" or not rest:
        raise ConfigError(f"no such tokenizer: {spec!r}; expected {TOKENIZER}")
    name, *rest = rest.split(":", 1)
    return parts.find("config.data.tokenizer", f"{kind}:{name}", {})(*rest, context_length)
