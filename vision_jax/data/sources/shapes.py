"""Drawn scenes of two objects, with captions that say what is where; some combinations are kept out of training."""

import itertools
import math
import random
from typing import NamedTuple

import numpy as np

from vision_jax.data.fingerprints import digest
from vision_jax.errors import ConfigError, did_you_mean

SIZES = {"small": (11, 14), "large": (20, 24)}  # range of the diameter, in pixels
COLORS = {
    "red": (215, 35, 35),
    "green": (35, 150, 55),
    "blue": (40, 70, 215),
    "yellow": (240, 215, 30),
    "purple": (130, 40, 165),
    "cyan": (45, 205, 215),
    "pink": (240, 140, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
OPPOSITES = {"left of": "right of", "above": "below"}
SIDE = 64  # pixels

_FINER = 4  # pictures are drawn larger by this factor, then averaged down
_TEST_EXAMPLES = 100
_TRAIN_EXAMPLES = 20_000


class Thing(NamedTuple):
    size: str
    color: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"


class Scene(NamedTuple):
    """What a picture shows. `first` left of `second` is the same scene as `second` right of `first`."""

    first: Thing
    relation: str  # "left of" or "above"
    second: Thing

    @property
    def captions(self) -> tuple[str, str]:
        return f"{self.first} {self.relation} {self.second}", f"{self.second} {OPPOSITES[self.relation]} {self.first}"


class Shapes:
    """Pictures uint8[64, 64, 3] of two different objects, with both ways to describe their relation.

    There are 18,240 scenes (2 sizes, 8 colours and 6 shapes per object, 2 relations); 100 are held out: "test" has one
    picture of each, and none of its captions is true of another. The 20,000 pictures of "train" show each other scene at
    least once. A picture is a function of its name; places, outlines, shades and colours vary a little. NumPy's legacy
    generator draws the held-out scenes, and Python's random() each picture; neither stream ever changes.
    """

    num_classes = 0
    class_names = ()

    def __init__(self, split: str):
        if split not in ("train", "test"):
            raise ConfigError(f"no split {split!r} of the shapes{did_you_mean(split, ('train', 'test'))}")
        things = [Thing(*values) for values in itertools.product(SIZES, COLORS, SHAPES)]
        scenes = [Scene(*values) for values in itertools.product(things, OPPOSITES, things) if values[0] != values[2]]
        scenes = [scenes[i] for i in np.random.RandomState(0).permutation(len(scenes))]
        self._split = split
        self._scenes = scenes[:_TEST_EXAMPLES] if split == "test" else scenes[_TEST_EXAMPLES:]

    def fingerprint(self) -> dict[str, str]:
        return {"shapes": digest(map(str, self._scenes))}

    def __len__(self) -> int:
        return _TEST_EXAMPLES if self._split == "test" else _TRAIN_EXAMPLES

    def scene(self, index: int) -> Scene:
        """What picture `index` shows."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._scenes[index % len(self._scenes)]

    def __getitem__(self, index: int) -> dict:
        scene, name = self.scene(index), f"shapes:{self._split}[{index}]"
        return {"image": _picture(scene, name), "label": 0, "name": name, "captions": scene.captions}


def _picture(scene: Scene, seed: str) -> np.ndarray:
    """Draws a scene: the objects lie along the relation's axis with a gap, off it by less than half their distance."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed)  # a hundred times faster to create than NumPy's generators
    shade = rng.uniform(150, 225)
    picture = Image.new("RGB", (SIDE * _FINER, SIDE * _FINER), _varied((shade, shade, shade), 8, rng))
    pencil = ImageDraw.Draw(picture)
    things = scene.first, scene.second
    radii = [rng.uniform(*SIZES[thing.size]) / 2 for thing in things]
    gap = rng.uniform(4, 10)
    start = rng.uniform(1, SIDE - 1 - 2 * sum(radii) - gap)
    along = start + radii[0], start + 2 * radii[0] + gap + radii[1]
    largest, off = max(radii), (along[1] - along[0]) / 5
    middle = rng.uniform(largest + off + 1, SIDE - 1 - largest - off)
    for thing, radius, place in zip(things, radii, along, strict=True):
        x, y = place, middle + rng.uniform(-off, off)
        if scene.relation == "above":
            x, y = y, x
        color = _varied(COLORS[thing.color], 15, rng)
        _draw(pencil, thing.shape, x * _FINER, y * _FINER, radius * _FINER, rng.uniform(-0.12, 0.12), color)
    return np.asarray(picture.reduce(_FINER))


def _varied(color: tuple[float, ...], most: float, rng: random.Random) -> tuple[int, ...]:
    return tuple(round(value + rng.uniform(-most, most)) for value in color)


def _draw(pencil, shape: str, x: float, y: float, radius: float, turn: float, color: tuple) -> None:
    """Draws one object centred at (x, y) with its corners about `radius` away, turned by `turn` radians."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pencil.ellipse(box, fill=color)
    elif shape == "ring":
        pencil.ellipse(box, outline=color, width=round(radius * 0.45))
    else:
        cos, sin = radius * math.cos(turn), radius * math.sin(turn)
        pencil.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in _CORNERS[shape]], fill=color)


_ARM = 0.33
_STAR = [(1 if i % 2 == 0 else 0.45, math.pi * (i / 5 - 0.5)) for i in range(10)]  # radius and angle, from the top
_CORNERS = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in _STAR],
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip
