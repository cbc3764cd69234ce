"""One module per model family: how each format names parameters, what its files say, and how they are written."""
