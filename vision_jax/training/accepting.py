"""What --accept takes: changes since a run began that it may resume with."""

from collections.abc import Sequence

from vision_jax.config import Section, leaves
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.synonyms import keys_meant

DATA, RESTART = "data", "restart"  # besides keys: other training data, and starting over


def check_accept(accept: Sequence[str], config: Section) -> None:
    """Raises ConfigError for a word of --accept that is not a key of the config."""
    keys = dict(leaves(config))
    known = {DATA, RESTART, *keys, *(key.rpartition(".")[0] for key in keys)} - {""}
    for word in accept:
        if word not in known and not word.startswith("model."):
            meant = [key for key in (each.partition("=")[0] for each in keys_meant(word)) if key in known]
            hint = f"; did you mean --accept={meant[0]}?" if meant else did_you_mean(word, known)
            raise ConfigError(f"--accept={word}: no such key{hint}")
