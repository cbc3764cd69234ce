"""Reads examples' texts for a contrastive model."""

import dataclasses

import numpy as np

from vision_jax.data.decoding import BrokenImage
from vision_jax.data.reading import PictureReader, Rows
from vision_jax.data.tokenizers import Tokenizer, open_tokenizer
from vision_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CaptionTokens:
    """Tokens of one of an example's texts: one of its captions, or a template filled with its class's name."""

    tokenizer: Tokenizer
    templates: tuple[str, ...]
    class_names: tuple[str, ...]
    truncate: bool

    def __call__(self, example: dict, rng: np.random.Generator) -> np.ndarray:
        """int32[context_length].

        Raises BrokenImage for an example without a text, ConfigError for a text that is too long and must not be cut.
        """
        texts = example.get("captions", self.templates)
        if not texts:
            raise BrokenImage("it has no caption")
        text = texts[rng.integers(len(texts))]
        if "captions" not in example:
            text = text.replace("{}", self.class_names[example["label"]].replace("_", " "))
        try:
            return self.tokenizer([text], truncate=self.truncate)[0]
        except ConfigError as error:
            raise ConfigError(f"{example['name']}: {error}; data.long_texts='cut' cuts it") from None


@dataclasses.dataclass(frozen=True)
class TextReader(PictureReader):
    """Reads a picture and the "tokens", int32[L], of one of its texts."""

    captions: CaptionTokens

    def __call__(self, example: dict, rng: np.random.Generator) -> Rows:
        tokens = self.captions(example, rng)
        return {**super().__call__(example, rng), "tokens": tokens}


def caption_tokens(data, source) -> CaptionTokens:
    """How to read the texts of `source`'s examples, from the config's `data` section.

    Raises ConfigError if a source has only classes and data.templates is empty, or a template has no place for the name.
    """
    if source.num_classes and not data.templates and not _has_captions(source):
        raise ConfigError(
            f"contrastive training needs texts, and {data.train!r} has classes: give config.data.templates, such as ('a photo of a {{}}.',)"
        )
    if wrong := [template for template in data.templates if not isinstance(template, str) or "{}" not in template]:
        raise ConfigError(f"config.data.templates: {wrong[0]!r} has no '{{}}' for the class's name")
    tokenizer = open_tokenizer(data.tokenizer, data.context_length)
    return CaptionTokens(tokenizer, data.templates, source.class_names, data.long_texts == "cut")


def _has_captions(source) -> bool:
    """Whether the first example has captions; then classes are not needed for texts."""
    try:
        return "captions" in source[0]
    except (OSError, BrokenImage):
        return False
