"""How much of what a stranger's file asks for is granted: every bound on reading files, in one place.

Reading anything takes at most 512 MiB of memory besides twice the file's size on disk; a file that asks for more ends in
one line.
"""

JSON_BYTES = 16 * 2**20  # of a JSON file or text; Python's objects take up to 24 times its size
VALUE_DEPTH = 16  # of lists in a config's value
INTEGER = 2**63  # below it in size: every whole number of a config
FLOAT = 3.4e38  # up to it in size: every other number of a config, which JAX holds in 32 bits
PROCESSES = 2**20  # of a run, and seconds that one waits for another
STEPS = 2**31  # below it: steps of a duration, which JAX counts in 32 bits
MODEL_SIZE = 2**20  # of any whole number among a model's fields: width, classes, tokens
MODEL_DEPTH = 1000  # blocks of a model, each of which is traced
IMAGE_SIDE = 2**14  # pixels of a picture's side as a model takes it
TOKENS = 2**20  # patches of a picture
