"""Tar shards of pictures with captions: their members, their pairs, and indexes and selections of pairs."""
