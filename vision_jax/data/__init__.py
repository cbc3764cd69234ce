"""Sources of pictures with labels or texts, host transforms and the input pipeline: from files to batches of uint8 arrays."""

from vision_jax.data.sources import open_source as open_source
