"""One module a family of models: the rules by which a format names parameters, what its files say, how they are written."""
