"""How well a masked autoencoder reconstructs hidden patches: a number and a picture, on a fixed set of images."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.data.images import eval_transform
from vision_jax.data.reading import PictureReader, read
from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.features import in_chunks
from vision_jax.evaluation.picture_grid import picture_grid
from vision_jax.models.inference import reconstruct
from vision_jax.ops.patches import as_pair, grid_of, unpatchify

GREY = 0.5  # colour of missing patches


class ReconstructionEvaluator:
    """PSNR of the hidden pixels over the first `examples` readable images of the source, and a grid of a few.

    The hidden patches are fixed, too, so that numbers and pictures of different steps are comparable.
    """

    metrics = ("psnr",)

    def __init__(self, at: Evaluation, *, examples: int, pictures: int):
        if examples < 1 or not 0 <= pictures <= examples:
            raise ConfigError(
                f"{at.key} needs examples >= 1 and pictures from 0 to examples, got {examples} and {pictures}"
            )
        self.mesh, self.pictures, task, config = at.mesh, pictures, at.task, at.config
        self.model = task.model
        self.images = readable_images(at.source, eval_transform(config.data), examples)
        self.noise = fixed_noise(task.model, self.images)
        self.rows = config.evals.batch_size or config.batch_size
        self.step = jax.jit(
            lambda variables, images, noise: views(task, variables, images, noise),
            out_shardings=NamedSharding(at.mesh, PartitionSpec()),
        )

    def run(self, variables: dict) -> dict:
        """{"psnr": mean over the images in dB, "reconstruction": picture}: see `views` and `sheet`."""
        images, noise = (in_chunks(x, self.rows, self.mesh) for x in (self.images, self.noise))
        values, shown = [], []
        for i in range(len(images)):
            psnr, pictures = self.step(variables, images[i], noise[i])
            values.append(np.asarray(psnr))
            if sum(map(len, shown)) < self.pictures:
                shown.append(np.asarray(pictures))
        psnr = np.concatenate(values)[: len(self.images)]
        result: dict = {"psnr": float(psnr.mean())}
        if self.pictures:
            result["reconstruction"] = sheet(self.model, psnr[: self.pictures], np.concatenate(shown)[: self.pictures])
        return result


def readable_images(source, transform, count: int) -> np.ndarray:
    """uint8[n, H, W, 3]: the first `count` readable images of a source, or fewer if it has no more.

    Unreadable ones are named on stderr. Raises ConfigError if none can be read.
    """
    reader = PictureReader(transform)
    readable = (row["image"] for id in range(len(source)) if (row := read(source, id, reader)))
    images = list(itertools.islice(readable, count))
    if not images:
        raise ConfigError("none of the images to reconstruct can be read")
    return np.stack(images)


def fixed_noise(model, images: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32[n, N]: noise that always hides the same patches of the same image."""
    rows, columns = grid_of(images.shape[1:3], as_pair(model.patch_size))
    return np.random.default_rng(seed).random((len(images), rows * columns), np.float32)


def views(task, variables: dict, images, noise) -> tuple[jax.Array, jax.Array]:
    """PSNR of each image's hidden pixels, float32[B] in dB, and its pictures uint8[B, 4, H, W, 3].

    The pictures are the image, its visible patches, the predicted others (missing patches are grey in both), and these
    two combined. images: uint8[B, H, W, 3].
    """
    data, patch = task.config.data, as_pair(task.model.patch_size)
    predicted, mask = reconstruct(task.model, variables, task.images({"image": images}), noise)
    predicted = jnp.clip(predicted * jnp.asarray(data.std) + jnp.asarray(data.mean), 0.0, 1.0)
    original = images.astype(jnp.float32) / 255.0
    pixels = jnp.repeat(mask[..., None], patch[0] * patch[1], axis=-1)
    hidden = unpatchify(pixels, grid_of(images.shape[1:3], patch), patch)  # [B, H, W, 1]
    errors = (jnp.square(predicted - original) * hidden).sum((1, 2, 3)) / jnp.maximum(3 * hidden.sum((1, 2, 3)), 1)
    visible, together = (jnp.where(hidden > 0, other, original) for other in (GREY, predicted))
    pictures = jnp.stack([original, visible, jnp.where(hidden > 0, predicted, GREY), together], axis=1)
    return -10.0 * jnp.log10(jnp.maximum(errors, 1e-10)), jnp.round(pictures * 255.0).astype(jnp.uint8)


def sheet(model, psnr: np.ndarray, pictures: np.ndarray, landscape: bool = False) -> np.ndarray:
    """uint8[H, W, 3]: the results of `views`, a row (`landscape`: a column) per image, with titles and its PSNR."""
    titles = "picture", f"visible {1 - model.mask_ratio:.0%}", f"predicted {model.mask_ratio:.0%}", "together"
    return picture_grid(pictures, titles, [f"PSNR {value:.1f} dB" for value in psnr], landscape)
