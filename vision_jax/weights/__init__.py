"""Reads and writes other projects' checkpoints. `readers.open_tensors` opens a weights file of any supported format."""
