"""Random transforms of training pictures: crop, flip, policy or colour jitter, affine.

All randomness comes from the generator that is passed in.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from vision_jax import limits
from vision_jax.data import images
from vision_jax.data.policies import parse_policy
from vision_jax.errors import ConfigError
from vision_jax.values import shown


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Crop (or squash) to `size`, flip, policy, colour jitter, affine, in this order; fields are as the config's keys."""

    size: tuple[int, int]
    interpolation: str
    crop_area: tuple[float, float] | None
    crop_ratio: tuple[float, float]
    crop_clip: bool
    flip: bool
    policy: Callable | None
    color_jitter: float
    rotate: float
    scale: float
    shift: float
    memory: int = limits.PICTURE_MEMORY  # for `decode`, bytes

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """uint8[H, W, 3] from an RGB picture."""
        if self.crop_area:
            box = images.random_crop_box(
                image.height, image.width, self.crop_area, self.crop_ratio, rng, self.crop_clip
            )
            image = images.resized_crop(image, box, self.size, self.interpolation)
        else:
            image = images.resize(image, self.size, self.interpolation)
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.policy:
            image = self.policy(image, rng)
        if self.color_jitter:
            image = jitter(image, self.color_jitter, rng)
        if self.rotate or self.scale or self.shift:
            image = self._affine(image, rng)
        return np.asarray(image)

    def _affine(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        degrees = rng.uniform(-self.rotate, self.rotate)
        scale = rng.uniform(1 - self.scale, 1 + self.scale)
        down, right = (rng.uniform(-self.shift, self.shift) * side for side in self.size)
        return affine(image, degrees, scale, (down, right), self.interpolation)


def train_transform(data) -> TrainTransform:
    """The training transform from a config's `data` section; raises ConfigError if its values make no sense."""
    augment = data.augment
    _check(
        "crop_area", augment, lambda v: v is None or (len(v) == 2 and 0 < v[0] <= v[1] <= 1), "a range within (0, 1]"
    )
    _check("crop_ratio", augment, lambda v: len(v) == 2 and 0 < v[0] <= v[1], "a range of positive numbers")
    _check("rotate", augment, lambda v: v >= 0, "at least 0")
    _check("shift", augment, lambda v: v >= 0, "at least 0")
    _check("scale", augment, lambda v: 0 <= v < 1, "in [0, 1)")
    _check("color_jitter", augment, lambda v: v >= 0, "at least 0")
    if augment.policy.startswith("rand") and augment.color_jitter:
        raise ConfigError(
            "config key 'data.augment.color_jitter' must be 0 beside a RandAugment policy, which has colour operations "
            "of its own (timm silently ignores the jitter then)"
        )
    return TrainTransform(
        size=images.image_size(data),
        interpolation=data.interpolation,
        memory=images.picture_memory(data),
        policy=parse_policy(augment.policy, data.mean, data.interpolation),
        **{
            name: augment[name]
            for name in ("crop_area", "crop_ratio", "crop_clip", "flip", "color_jitter", "rotate", "scale", "shift")
        },
    )


def _check(name: str, section, valid: Callable, expected: str) -> None:
    value = section[name]
    numbers = [item for item in (value if isinstance(value, tuple) else (value,)) if item is not None]
    if not (all(type(item) in (int, float) for item in numbers) and valid(value)):
        raise ConfigError(f"config key 'data.augment.{name}' must be {expected}, got {shown(value)}")


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Scales brightness, contrast and saturation, in random order, by uniform[max(0, 1 - strength), 1 + strength] each."""
    for index in rng.permutation(3):
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[index]
        image = enhance(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def affine(
    image: Image.Image, degrees: float, scale: float, shift: tuple[float, float], interpolation: str
) -> Image.Image:
    """The picture rotated clockwise and scaled about its centre, moved by (down, right) pixels; the rest is black."""
    cos, sin = (f(math.radians(degrees)) / scale for f in (math.cos, math.sin))
    x, y = image.width / 2, image.height / 2
    to_x, to_y = x + shift[1], y + shift[0]
    # Pillow asks where each output pixel comes from: the inverse map.
    matrix = (cos, sin, x - cos * to_x - sin * to_y, -sin, cos, y + sin * to_x - cos * to_y)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, images.RESAMPLING[interpolation])
