"""Prepares pictures for the model of a source."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vision_jax.data.decoding import as_turned, decode, orientation, read_picture, to_rgb
from vision_jax.data.images import EvalTransform
from vision_jax.errors import ConfigError
from vision_jax.ops.patches import as_pair
from vision_jax.ops.windows import Pair
from vision_jax.weights.sources import WeightsSource, open_weights


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns a picture into a model's input: `transform(picture)` is float32[height, width, 3].

    The fields are those of the config's `data` section; how half pixels of a crop's margins are rounded: "even", as in
    torchvision, or "down", as in transformers; and whether a picture is first turned by its EXIF orientation, as
    transformers' pipelines do, but timm, open_clip and our training do not.
    """

    image_size: Pair  # (height, width) in pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    eval_resize: str = "crop"
    eval_crop: float = 0.875
    crop_rounding: str = "even"
    exif_orientation: bool = False

    def __call__(self, picture) -> np.ndarray:
        """float32[height, width, 3] from a file's path, its bytes, a PIL.Image or uint8[h, w, 1, 3 or 4].

        Raises BrokenImage for a file that cannot be read, is not a picture, or is incomplete.
        """
        return np.float32((self.pixels(picture) / 255 - self.mean) / self.std)

    def pixels(self, picture) -> np.ndarray:
        """uint8[height, width, 3], before normalisation."""
        picture = self.opened(picture)
        squash = self.eval_resize == "squash"
        transform = EvalTransform(self.image_size, self.interpolation, squash, self.eval_crop, self.crop_rounding)
        return transform(picture)

    def opened(self, picture) -> Image.Image:
        """The whole picture in RGB, ready to be resized."""
        if isinstance(picture, str | os.PathLike):
            picture = read_picture(os.path.expanduser(picture))
        if not isinstance(picture, Image.Image):
            return decode(picture, turned=self.exif_orientation)
        return as_turned(to_rgb(picture), orientation(picture)) if self.exif_orientation else to_rgb(picture)


def preprocessing(
    source: str | pathlib.Path,
    *,
    image_size: int | Pair | None = None,
    revision: str | None = None,
    file: Mapping[str, Any] | None = None,
) -> Preprocessing:
    """How pictures are prepared for a source's model; `source` and `file` are as in `load_pretrained`.

    image_size: the model's, if it was loaded for another size than the source's; the rest stays as the source says.

    Raises ConfigError if the source cannot be read or does not say.
    """
    wishes = {} if image_size is None else {"image_size": image_size}
    return preprocessing_of(open_weights(source, file, revision, wishes=wishes), image_size)


def preprocessing_of(
    source: WeightsSource, image_size: int | Pair | None = None, exif: bool | None = None
) -> Preprocessing:
    """`preprocessing` for an opened source; `exif`: whether to turn pictures, None: as the source's project does."""
    if not source.preprocessing:
        raise ConfigError(
            f"'{source.path}' does not say how pictures are prepared; "
            "vj.Preprocessing(image_size, mean, std, ...) does, with what its authors say"
        )
    settings = source.preprocessing if exif is None else {**source.preprocessing, "exif_orientation": exif}
    return Preprocessing(as_pair(image_size or source.image_size), **settings)
