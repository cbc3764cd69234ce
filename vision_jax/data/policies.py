"""RandAugment (Cubuk et al., 2020) in timm's and big_vision's dialects, and the 3-Augment of DeiT III.

A dialect is a table from an operation's name to its function and to the map from a magnitude to its argument. Level 10 is
full strength in both dialects. The maps also take the drawn sign, which symmetric operations use.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vision_jax.data.images import RESAMPLING
from vision_jax.errors import ConfigError

GRAMMAR = (
    "'rand-m9-mstd0.5-inc1' (timm; m: magnitude, n: operations, p: probability of each, mstd: deviation of the "
    "magnitude, mmax: its largest value, inc1: all operations grow with it), 'randaug(N,M)' (big_vision) or "
    "'3-augment' (DeiT III)"
)


class Op(NamedTuple):
    """One operation: `apply(image, argument, geometry)` with `argument(level, sign)`; sign is -1 or +1."""

    apply: Callable
    argument: Callable[[float, int], float | int | None] = lambda level, sign: None


class Geometry(NamedTuple):
    """How geometric operations resample, and the colour with which they fill empty areas."""

    resample: Image.Resampling
    fill: tuple[int, int, int]


def _warp(image: Image.Image, matrix: tuple, geometry: Geometry) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=geometry.resample, fillcolor=geometry.fill
    )


def _rotate(image, degrees, geometry):
    return image.rotate(degrees, resample=geometry.resample, fillcolor=geometry.fill)


def _shear_x(image, factor, geometry):
    return _warp(image, (1, factor, 0, 0, 1, 0), geometry)


def _shear_y(image, factor, geometry):
    return _warp(image, (1, 0, 0, factor, 1, 0), geometry)


def _translate_x(image, pixels, geometry):
    return _warp(image, (1, 0, pixels, 0, 1, 0), geometry)


def _translate_y(image, pixels, geometry):
    return _warp(image, (1, 0, 0, 0, 1, pixels), geometry)


def _posterize(image, bits, _):
    """Keeps the leading bits of each channel; 0 bits make the picture black, which ImageOps.posterize does not support."""
    mask = 0xFF00 >> min(max(bits, 0), 8) & 0xFF
    return image.point([value & mask for value in range(256)] * 3)


def _solarize_add(image, add, _):
    """Brightens what is darker than the middle."""
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _enhance(kind: type) -> Callable:
    """Blends with a degenerate version of the picture: 0 gives that version, 1 the picture."""
    return lambda image, factor, _: kind(image).enhance(factor)


def _solarize(image, threshold, _):
    return ImageOps.solarize(image, threshold)


_LEVEL_FREE = {
    "AutoContrast": Op(lambda image, *_: ImageOps.autocontrast(image)),
    "Equalize": Op(lambda image, *_: ImageOps.equalize(image)),
    "Invert": Op(lambda image, *_: ImageOps.invert(image)),
}
_ENHANCE = {
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
}
_BOTH_DIALECTS = _LEVEL_FREE | {
    "Rotate": Op(_rotate, lambda level, sign: sign * level / 10 * 30),
    "ShearX": Op(_shear_x, lambda level, sign: sign * level / 10 * 0.3),
    "ShearY": Op(_shear_y, lambda level, sign: sign * level / 10 * 0.3),
}


# timm 1.0, timm/data/auto_augment.py: the 15 operations of `rand-`, plain and increasing (`inc1`).
_TIMM_COMMON = _BOTH_DIALECTS | {
    "SolarizeAdd": Op(_solarize_add, lambda level, _: min(128, int(level / 10 * 110))),
    "TranslateX": Op(
        lambda image, share, g: _translate_x(image, share * image.width, g),
        lambda level, sign: sign * level / 10 * 0.45,
    ),
    "TranslateY": Op(
        lambda image, share, g: _translate_y(image, share * image.height, g),
        lambda level, sign: sign * level / 10 * 0.45,
    ),
}
TIMM = _TIMM_COMMON | {
    "Posterize": Op(_posterize, lambda level, _: int(level / 10 * 4)),
    "Solarize": Op(_solarize, lambda level, _: min(256, int(level / 10 * 256))),
    **{name: Op(function, lambda level, _: level / 10 * 1.8 + 0.1) for name, function in _ENHANCE.items()},
}
TIMM_INCREASING = _TIMM_COMMON | {
    "Posterize": Op(_posterize, lambda level, _: 4 - int(level / 10 * 4)),
    "Solarize": Op(_solarize, lambda level, _: 256 - min(256, int(level / 10 * 256))),
    **{
        name: Op(function, lambda level, sign: max(0.1, 1 + sign * level / 10 * 0.9))
        for name, function in _ENHANCE.items()
    },
}


def _contrast_to_area(image, factor, _):
    """Blends with a grey of height * width / 256: what TF's code computes instead of the mean grey that it intends."""
    grey = min(255, image.width * image.height // 256)
    return Image.blend(Image.new("RGB", image.size, (grey,) * 3), image, factor)


# google-research/big_vision, pp/autoaugment.py, distort_image_with_randaugment: 15 operations and cutout, always
# applied. Its levels exceed 10 ("randaug(2,15)"), its translations and cutout are in pixels whatever the picture's size,
# and its solarize threshold is a uint8 that wraps around (its issue 110).
BIG_VISION = _BOTH_DIALECTS | {
    "Posterize": Op(_posterize, lambda level, _: int(level / 10 * 4)),
    "Solarize": Op(_solarize, lambda level, _: int(level / 10 * 256) % 256),
    "SolarizeAdd": Op(_solarize_add, lambda level, _: int(level / 10 * 110)),
    **{name: Op(function, lambda level, _: level / 10 * 1.8 + 0.1) for name, function in _ENHANCE.items()},
    "Contrast": Op(_contrast_to_area, lambda level, _: level / 10 * 1.8 + 0.1),
    "TranslateX": Op(_translate_x, lambda level, sign: sign * level / 10 * 100),
    "TranslateY": Op(_translate_y, lambda level, sign: sign * level / 10 * 100),
}


def cutout(image: Image.Image, half: int, fill: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """Paints over a square of side 2 * half, centred anywhere in the picture."""
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    image = image.copy()
    image.paste(fill, (max(0, x - half), max(0, y - half), min(image.width, x + half), min(image.height, y + half)))
    return image


@dataclasses.dataclass(frozen=True)
class TimmRandAugment:
    """`layers` operations drawn with replacement, each applied with `probability` at a normal magnitude.

    The magnitude is clipped to [0, `largest`]; a `deviation` of infinity draws it from uniform[0, `magnitude`].
    """

    geometry: Geometry
    increasing: bool = False
    layers: int = 2
    magnitude: float = 10
    deviation: float = 0
    largest: float = 10
    probability: float = 0.5

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        table = tuple((TIMM_INCREASING if self.increasing else TIMM).values())
        for index in rng.integers(len(table), size=self.layers):
            if rng.random() < self.probability:
                op, level, sign = table[index], self._level(rng), 1 if rng.random() < 0.5 else -1
                image = op.apply(image, op.argument(level, sign), self.geometry)
        return image

    def _level(self, rng: np.random.Generator) -> float:
        infinite = math.isinf(self.deviation)
        level = rng.uniform(0, self.magnitude) if infinite else rng.normal(self.magnitude, self.deviation)
        return min(max(level, 0), self.largest)


@dataclasses.dataclass(frozen=True)
class BigVisionRandAugment:
    """`layers` operations drawn with replacement, all applied at `magnitude`."""

    layers: int
    magnitude: float

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        geometry = Geometry(Image.Resampling.NEAREST, (128, 128, 128))
        table = tuple(BIG_VISION.values())
        for index in rng.integers(len(table) + 1, size=self.layers):
            if index == len(table):
                image = cutout(image, int(self.magnitude / 10 * 40), geometry.fill, rng)
            else:
                op, sign = table[index], 1 if rng.random() < 0.5 else -1
                image = op.apply(image, op.argument(self.magnitude, sign), geometry)
        return image


def three_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Greys, solarizes or blurs, one of the three (Touvron et al., 2022; facebookresearch/deit, augment.py)."""
    match rng.integers(3):
        case 0:
            return ImageOps.grayscale(image).convert("RGB")
        case 1:
            return ImageOps.solarize(image)
        case _:
            return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))


def parse_policy(text: str, mean: tuple[float, ...], interpolation: str) -> Callable | None:
    """The policy that `text` describes: a function of an RGB picture and a generator, or None for an empty text.

    Args:
        text: see GRAMMAR.
        mean: the data's mean colour in [0, 1], with which timm's geometric operations fill empty areas.
        interpolation: "bicubic" or "bilinear", for the same operations.
    """
    if not text:
        return None
    if text == "3-augment":
        return three_augment
    if match := re.fullmatch(r"randaug\((\d+),\s*(\d+)\)", text):
        return BigVisionRandAugment(int(match[1]), int(match[2]))
    if text.split("-")[0] == "rand":
        fill = tuple(min(255, round(255 * channel)) for channel in mean)
        return _parse_timm(text, Geometry(RESAMPLING[interpolation], fill))
    raise _unknown(text)


def _parse_timm(text: str, geometry: Geometry) -> TimmRandAugment:
    fields = {
        "m": "magnitude",
        "n": "layers",
        "p": "probability",
        "mstd": "deviation",
        "mmax": "largest",
        "inc": "increasing",
    }
    values = {}
    for part in text.split("-")[1:]:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] not in fields or fields[match[1]] in values:
            raise _unknown(text, f"; '{part}' is not understood")
        key, number = match.groups()
        kind = {"n": int, "inc": lambda digits: bool(int(digits))}.get(key, float)
        try:
            values[fields[key]] = kind(number)
        except ValueError:
            raise _unknown(text, f"; '{part}' must be a whole number") from None
    if values.get("deviation", 0) > 100:
        values["deviation"] = math.inf
    return TimmRandAugment(geometry, **values)


def _unknown(text: str, detail: str = "") -> ConfigError:
    return ConfigError(f"config key 'data.augment.policy' must read {GRAMMAR}; got {text!r}{detail}")
