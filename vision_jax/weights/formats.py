"""The formats that weights are exported to, by name."""

from vision_jax.errors import ConfigError, did_you_mean

FORMATS = {"hf": "transformers", "timm": "timm", "open_clip": "open_clip", "openai": "OpenAI's CLIP"}
_OF_TRANSFORMERS = ("transformers", "huggingface", "hugging_face", "pytorch", "torch")


def check_format(format: str) -> None:
    """Raises ConfigError for a name that is not in `FORMATS`."""
    if format not in FORMATS:
        hint = "; did you mean 'hf'?" if str(format).lower() in _OF_TRANSFORMERS else did_you_mean(format, FORMATS)
        told = ", ".join(f"{name} ({project})" if name != project else name for name, project in FORMATS.items())
        raise ConfigError(f"no format {format!r} to export to; there are {told}{hint if 'mean' in hint else ''}")
