"""The training command, whose pictures cannot be read any more, in the way FAULT says, once FAULT_FILE exists.

Data workers import the main program anew, so that the fault is in them, too.
"""

import os
import resource

from vision_jax.data import reading
from vision_jax.main import main

decode = reading.decode


def use_up_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    bytearray(2**35)


def fail(*args, **kwargs):
    if os.path.exists(os.environ["FAULT_FILE"]):
        if os.environ["FAULT"] == "memory":
            use_up_memory()
        raise RuntimeError("the archive of pictures does not answer")
    return decode(*args, **kwargs)


reading.decode = fail

if __name__ == "__main__":
    main()
