"""Checkpoints of other projects, in and out. `readers.open_tensors` opens a file of weights of any known format."""
