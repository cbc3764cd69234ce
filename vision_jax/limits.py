"""How much of what a stranger's file asks for is granted: every bound on reading files, in one place.

Reading anything takes at most 512 MiB of memory besides twice the file's size on disk; a file that asks for more ends in
one line.
"""

JSON_BYTES = 16 * 2**20  # of a JSON file or text; Python's objects take up to 24 times its size
VALUE_DEPTH = 16  # of lists in a config's value
INTEGER = 2**63  # below it in size: every whole number of a config
STEPS = 2**31  # below it: steps of a duration, which JAX counts in 32 bits
