import io

import numpy as np
import pytest
from PIL import Image

from vision_jax.config import base_config


@pytest.fixture
def config():
    """Small pictures and batches of the digits, made in this process."""
    c = base_config()
    c.batch_size = 12
    c.data = {"image_size": 16, "prefetch": 2, "threads": 2}
    return c


@pytest.fixture
def encode():
    """encode(array or picture, format) -> bytes."""

    def encode(picture, format="PNG", **options):
        picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        stream = io.BytesIO()
        picture.save(stream, format, **options)
        return stream.getvalue()

    return encode


@pytest.fixture
def picture():
    """A smooth RGB picture with some texture, 61 x 83 pixels."""
    y, x = np.mgrid[:61, :83]
    waves = np.stack([127 + 120 * np.sin(x / 7 + y / 11), 2 * x + y, 127 + 100 * np.cos(x * y / 300)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path, encode):
    """tmp_path/pictures with three classes of 4, 5 and 2 PNG files; grey levels are label * 20 + number."""
    root = tmp_path / "pictures"
    for label, (name, count) in enumerate({"class2": 4, "class10": 5, "zebra": 2}.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            grey = np.full((20, 24, 3), label * 20 + number, np.uint8)
            (root / name / f"{number}.png").write_bytes(encode(grey))
    return root
