"""Resizes and crops pictures on the host, pixel for pixel as torchvision does with Pillow.

Sizes are (height, width) in pixels.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from vision_jax import limits
from vision_jax.data.decoding import BrokenImage as BrokenImage
from vision_jax.data.decoding import bands
from vision_jax.data.decoding import decode as decode
from vision_jax.errors import ConfigError
from vision_jax.values import shown

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """The whole picture at another size, antialiased."""
    if image.height * size[1] > limits.RESIZED_PIXELS:  # Pillow shortens rows before it reduces their number
        image = image.resize((image.width, size[0]), RESAMPLING[interpolation])
    return image.resize(size[::-1], RESAMPLING[interpolation])


def resized_crop(
    image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int], interpolation: str
) -> Image.Image:
    """Cuts `box`, (top, left, height, width), out of a picture and resizes it, antialiased."""
    top, left, height, width = box
    if height * size[1] > limits.RESIZED_PIXELS:
        return resize(image.crop((left, top, left + width, top + height)), size, interpolation)
    # Bit for bit the same as a crop and a resize, without a copy of the whole box: Pillow shortens rows first.
    rows = Image.new(image.mode, (size[1], height))
    for start, band in bands(image, box):
        rows.paste(band.resize((size[1], band.height), RESAMPLING[interpolation]), (0, start))
    return rows.resize(size[::-1], RESAMPLING[interpolation])


def center_crop(image: Image.Image, size: tuple[int, int], rounding: str = "even") -> Image.Image:
    """The middle of a picture at least as large as `size`.

    Half pixels of the margins are rounded to even, as torchvision does, or "down", as transformers.
    """
    whole = {"even": round, "down": math.floor}[rounding]
    top, left = (whole((have - want) / 2) for have, want in zip((image.height, image.width), size, strict=True))
    return image.crop((left, top, left + size[1], top + size[0]))


def resize_to_cover(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """The picture resized to the smallest size that covers `size`, keeping its aspect ratio.

    A square `size` is rounded as in torchvision's Resize, any other as in timm's ResizeKeepRatio.
    """
    height, width = image.height, image.width
    if size[0] == size[1]:
        short = min(height, width)
        target = tuple(int(size[0] * side / short) for side in (height, width))
    else:
        ratio = min(height / size[0], width / size[1])
        target = round(height / ratio), round(width / ratio)
    return resize(image, target, interpolation)


def without_ends(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cuts the ends off a picture so thin that covering `size` would take too much memory; its centre stays in place."""
    ratio = min(image.height / size[0], image.width / size[1])  # pixels of the picture per pixel of the result
    most = (max(limits.RESIZED_PIXELS // other, 2 * side) for side, other in (size, size[::-1]))
    top, left = (
        max(math.floor(have - 8 - want * ratio) // 2, 0)
        for have, want in zip((image.height, image.width), most, strict=True)
    )
    return image.crop((left, top, image.width - left, image.height - top)) if top or left else image


def random_crop_box(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    clip: bool = False,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random resized crop, drawn as in torchvision's RandomResizedCrop.

    The fraction of the area is uniform, the ratio width / height log-uniform; after ten boxes that do not fit, it is the
    largest centred box with a ratio within bounds. With `clip`, the first box is cut to fit instead (MAE's util/crop.py).
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if clip:
            w, h = min(w, width), min(h, height)
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Resizes and centre crops (`crop`: the fraction of the short side to keep), or squashes the whole picture.

    rounding: how the crop's margins are rounded, see `center_crop`.
    memory: bytes for `decode`.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    squash: bool = False
    crop: float = 0.875
    rounding: str = "even"
    memory: int = limits.PICTURE_MEMORY

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8[H, W, 3] from an RGB picture."""
        if self.squash:
            return np.asarray(resize(image, self.size, self.interpolation))
        cover = tuple(math.floor(side / self.crop) for side in self.size)
        image = without_ends(image, cover)
        return np.asarray(center_crop(resize_to_cover(image, cover, self.interpolation), self.size, self.rounding))


def eval_transform(data) -> EvalTransform:
    """The evaluation transform from a config's `data` section."""
    if not 0 < data.eval_crop <= 1:
        raise ConfigError(f"config key 'data.eval_crop' must be in (0, 1], got {data.eval_crop}")
    return EvalTransform(
        image_size(data),
        data.interpolation,
        data.eval_resize == "squash",
        data.eval_crop,
        memory=picture_memory(data),
    )


def image_size(data) -> tuple[int, int]:
    """(height, width) from the config key data.image_size."""
    size = data.image_size if isinstance(data.image_size, tuple) else (data.image_size, data.image_size)
    if len(size) != 2 or not all(type(side) is int and 0 < side <= limits.IMAGE_SIDE for side in size):
        raise ConfigError(
            "config key 'data.image_size' must be pixels a side or (height, width), each from 1 to"
            f" {limits.IMAGE_SIDE}, got {shown(data.image_size)}"
        )
    return size


def picture_memory(data) -> int:
    """Bytes that decoding a picture may take: the config key data.picture_memory."""
    if data.picture_memory < 1:
        raise ConfigError(f"config key 'data.picture_memory' must be at least 1, got {data.picture_memory}")
    return data.picture_memory * 2**20
