"""Prints messages only once per run, however many processes and evaluations it has."""

import sys

import jax

_told: set[str] = set()


def tell_once(line: str) -> None:
    """Prints the line on stderr, in the first process and for the first time only."""
    if jax.process_index() == 0 and line not in _told:
        _told.add(line)
        print(line, file=sys.stderr, flush=True)
