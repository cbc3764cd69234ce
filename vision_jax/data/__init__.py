"""From files to batches of uint8 arrays: sources of pictures with labels or texts, host transforms, input pipeline."""

from vision_jax.data.sources import open_source as open_source
