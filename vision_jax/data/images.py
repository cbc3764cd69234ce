"""Decoding, resizing and cropping pictures on the host, pixel for pixel as torchvision does with Pillow.

Sizes are (height, width) in pixels.
"""

import dataclasses
import io
import math

import numpy as np
from PIL import Image, UnidentifiedImageError

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.values import shown

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class BrokenImage(ValueError):
    """Bytes that are no image, or only a part of one."""


def decode(image: bytes | np.ndarray) -> Image.Image:
    """An RGB picture from an encoded file or from uint8[H, W], [H, W, 1], [H, W, 3] or [H, W, 4].

    Grey, palette and CMYK pictures are converted, 16-bit grey is reduced to its high byte, and alpha is dropped. An
    EXIF orientation is not applied: torchvision and TensorFlow do not, and published accuracies are without it.

    Raises:
        BrokenImage: the bytes cannot be decoded, or end too early.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image).convert("RGB")
    try:
        decoded = Image.open(io.BytesIO(image))
        decoded.load()
    except UnidentifiedImageError:
        raise BrokenImage("not an image in a known format") from None
    except Exception as error:  # decoders raise whatever their parsers stumble over
        raise BrokenImage(f"{type(error).__name__}: {error}") from None
    return to_rgb(decoded)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as `decode` has it."""
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
        image = Image.fromarray((np.clip(np.asarray(image), 0, 2**16 - 1) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """The whole picture at another size, antialiased."""
    return image.resize(size[::-1], RESAMPLING[interpolation])


def center_crop(image: Image.Image, size: tuple[int, int], rounding: str = "even") -> Image.Image:
    """The middle of a picture at least as large as `size`.

    Half pixels of the margins are rounded to even, as torchvision does, or "down", as transformers.
    """
    whole = {"even": round, "down": math.floor}[rounding]
    top, left = (whole((have - want) / 2) for have, want in zip((image.height, image.width), size, strict=True))
    return image.crop((left, top, left + size[1], top + size[0]))


def resize_to_cover(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """The picture at the smallest size that covers `size`, with its aspect ratio kept.

    A square `size` is rounded as torchvision's Resize rounds, any other as timm's ResizeKeepRatio.
    """
    height, width = image.height, image.width
    if size[0] == size[1]:
        short = min(height, width)
        target = tuple(int(size[0] * side / short) for side in (height, width))
    else:
        ratio = min(height / size[0], width / size[1])
        target = round(height / ratio), round(width / ratio)
    return resize(image, target, interpolation)


def random_crop_box(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    clip: bool = False,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random resized crop, drawn as torchvision's RandomResizedCrop draws it.

    The share of the area is uniform, the ratio width / height log-uniform; after ten boxes that do not fit, the largest
    centred box whose ratio is within bounds. With `clip`, the first box is cut to fit instead (MAE's util/crop.py).
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
    """Resize and centre crop (`crop`: the share of the short side that is kept), or squash the whole picture.

    rounding: of the crop's margins, see `center_crop`.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    squash: bool = False
    crop: float = 0.875
    rounding: str = "even"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8[H, W, 3] of an RGB picture."""
        if self.squash:
            return np.asarray(resize(image, self.size, self.interpolation))
        cover = tuple(math.floor(side / self.crop) for side in self.size)
        return np.asarray(center_crop(resize_to_cover(image, cover, self.interpolation), self.size, self.rounding))


def eval_transform(data) -> EvalTransform:
    """The evaluation transform of a config's `data` section."""
    if not 0 < data.eval_crop <= 1:
        raise ConfigError(f"config key 'data.eval_crop' must be in (0, 1], got {data.eval_crop}")
    return EvalTransform(image_size(data), data.interpolation, data.eval_resize == "squash", data.eval_crop)


def image_size(data) -> tuple[int, int]:
    """(height, width) of the config key data.image_size."""
    size = data.image_size if isinstance(data.image_size, tuple) else (data.image_size, data.image_size)
    if len(size) != 2 or not all(type(side) is int and 0 < side <= limits.IMAGE_SIDE for side in size):
        raise ConfigError(
            "config key 'data.image_size' must be pixels a side or (height, width), each from 1 to"
            f" {limits.IMAGE_SIDE}, got {shown(data.image_size)}"
        )
    return size
