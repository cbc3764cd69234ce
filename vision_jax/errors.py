"""The one kind of error that a user can mend: commands print its message as a single line and exit with status 2."""


class ConfigError(ValueError):
    """A config, file or argument that cannot work; the message names it and says what would be right."""
