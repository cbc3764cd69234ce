"""Tar shards of pictures with captions: their members, the pairs among these, indexes and selections of pairs."""
