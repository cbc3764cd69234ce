"""Eight simulated CPU devices and one compilation cache for every test; set before JAX is first imported."""

import gc
import os
import pathlib
import tempfile

import hypothesis

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Most of a test's time is compilation, and many compile the same program, in other processes too.
cache = pathlib.Path(tempfile.gettempdir()) / "vision_jax_tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Nearly all that is made is held by JAX's caches and stays: looking through it again and again takes a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# No deadlines: the first example of a test may import or compile.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")
