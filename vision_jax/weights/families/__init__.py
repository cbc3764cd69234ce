"""One module a family of models: what a file of each format holds, and where every parameter lies in it."""
