"""Texts of examples, as a contrastive model reads them."""

import dataclasses

import numpy as np

from vision_jax.data.decoding import BrokenImage
from vision_jax.data.tokenizers import Tokenizer, open_tokenizer
from vision_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CaptionTokens:
    """One of an example's texts as tokens: its own captions, or `templates` filled with its class's name."""

    tokenizer: Tokenizer
    templates: tuple[str, ...]
    class_names: tuple[str, ...]
    truncate: bool

    def __call__(self, example: dict, rng: np.random.Generator) -> np.ndarray:
        """int32[context_length].

        Raises BrokenImage for an example without a text, ConfigError for one that is too long and may not be cut.
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

    @property
    def none(self) -> np.ndarray:
        """The tokens of an example that is not used."""
        return np.zeros(self.tokenizer.context_length, np.int32)


def reads_captions(config) -> bool:
    """Whether batches hold "tokens", int32[B, data.context_length], besides pictures."""
    return config.task == "contrastive"


def caption_tokens(config, source) -> CaptionTokens | None:
    """How `source`'s examples are read, None where the task reads no texts.

    Raises ConfigError where a source has classes alone and there are no data.templates, or one has no place for the name.
    """
    if not reads_captions(config):
        return None
    data = config.data
    if source.num_classes and not data.templates and not _has_captions(source):
        raise ConfigError(
            f"contrastive training needs texts, and {data.train!r} has classes: give config.data.templates, such as ('a photo of a {{}}.',)"
        )
    if wrong := [template for template in data.templates if not isinstance(template, str) or "{}" not in template]:
        raise ConfigError(f"config.data.templates: {wrong[0]!r} has no '{{}}' for the class's name")
    return CaptionTokens(
        open_tokenizer(data.tokenizer, data.context_length),
        data.templates,
        source.class_names,
        data.long_texts == "cut",
    )


def _has_captions(source) -> bool:
    """Whether the first example brings its own; classes then say nothing of texts."""
    try:
        return "captions" in source[0]
    except (OSError, BrokenImage):
        return False
