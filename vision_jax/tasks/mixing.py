"""What happens to the pixels of a training batch on the device: normalisation, random erasing, mixup and CutMix.

Each is a pure function of a key and of the *global* batch, with fixed shapes, to be called inside a jitted step: the same
key and batch give the same result however the batch is sharded over devices and hosts. Pairs reach across devices, which
costs one collective-permute of the images. With micro-batches, pairs are formed within each one, with its own draw.

The published recipes of DeiT, Swin and MAE erase first and then mix, so that a mixed image may show two half-visible
rectangles of noise.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError

ERASE_AREA = (0.02, 1 / 3)  # share of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASE_ATTEMPTS = 10


def normalize(images: jax.Array, mean: tuple, std: tuple, dtype: Any = jnp.float32) -> jax.Array:
    """uint8 [..., C] to (images / 255 - mean) / std in `dtype`, computed in float32.

    Raises:
        TypeError: the images are not uint8, so they may have been scaled already.
        ConfigError: not one mean and one positive standard deviation per channel.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"normalize takes uint8 images, got {images.dtype}")
    channels = images.shape[-1]
    numbers = all(type(value) in (int, float) for value in (*mean, *std))
    if not numbers or len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ConfigError(
            f"config keys 'data.mean' and 'data.std' need one number, and a std above 0, for each of the {channels} "
            f"channels; got {mean} and {std}"
        )
    scaled = images.astype(jnp.float32) / 255.0
    return ((scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(dtype)


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup: float,
    cutmix: float,
    mix_prob: float = 1.0,
    switch_prob: float = 0.5,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixup (https://arxiv.org/abs/1710.09412) or CutMix (https://arxiv.org/abs/1905.04899), like timm's 'batch' mode.

    One draw for the whole batch: whether to mix, which of the two, and lambda ~ Beta(alpha, alpha). Example i is mixed
    with example B - 1 - i, and so are their targets; CutMix's lambda is the share of its own pixels that an image keeps
    after the box has been clipped to the image. An odd batch mixes its middle example with itself, which changes nothing.

    Args:
        key: a jax key.
        images: float [B, H, W, C]; mixed in float32, returned in their own dtype.
        targets: float [B, K], smoothed or not.
        mixup, cutmix: alphas; 0 turns one off, both 0 return the arguments.
        mix_prob: share of batches that are mixed.
        switch_prob: if both are on, the share of mixed batches that get CutMix.
        mask: bool [B], True for valid examples. Neither an invalid example nor its partner is mixed.

    Returns:
        images [B, H, W, C] and float32 targets [B, K].
    """
    _check(mixup=mixup, cutmix=cutmix, mix_prob=mix_prob, switch_prob=switch_prob)
    if mixup == 0 and cutmix == 0:
        return images, targets
    height, width = images.shape[1:3]
    apply_key, switch_key, lam_key, box_key = jax.random.split(key, 4)
    use_cutmix = jax.random.bernoulli(switch_key, switch_prob) if mixup and cutmix else jnp.bool_(cutmix > 0)
    alpha = jnp.where(use_cutmix, cutmix or 1.0, mixup or 1.0)
    lam = jax.random.beta(lam_key, alpha, alpha)
    rows, columns = cutmix_box(lam, jax.random.uniform(box_key, (2,)), height, width)
    cut = _inside(rows, columns, height, width)  # [H, W]
    lam = jnp.where(use_cutmix, 1.0 - cut.mean(), lam)

    mixed = jnp.broadcast_to(jax.random.bernoulli(apply_key, mix_prob), images.shape[:1])  # [B]
    if mask is not None:
        mixed &= mask & mask[::-1]
    own_pixels = jnp.where(use_cutmix, 1.0 - cut, lam)[None, :, :, None]  # the share of an example's own pixels
    own_pixels = jnp.where(mixed[:, None, None, None], own_pixels, 1.0)
    own_target = jnp.where(mixed, lam, 1.0)[:, None]
    return _blend(images, own_pixels).astype(images.dtype), _blend(targets, own_target)


def cutmix_box(lam: jax.Array, centre: jax.Array, height: int, width: int) -> tuple[tuple, tuple]:
    """CutMix's box: its sides are sqrt(1 - lambda) times the image's, its centre any pixel, clipped at the borders.

    Args:
        lam: share of the image to keep, before clipping.
        centre: float [2] in [0, 1): the vertical and horizontal position of the centre.

    Returns:
        Half-open ranges (top, bottom) and (left, right) in pixels.
    """

    def side(position: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        cut = (size * jnp.sqrt(1.0 - lam)).astype(jnp.int32)
        middle = _index(position, size)
        return jnp.clip(middle - cut // 2, 0, size), jnp.clip(middle + (cut + 1) // 2, 0, size)

    return side(centre[0], height), side(centre[1], width)


def random_erasing(key: jax.Array, images: jax.Array, prob: float) -> jax.Array:
    """Random erasing (https://arxiv.org/abs/1708.04896) with normal noise per pixel, like timm's 'pixel' mode.

    With probability `prob`, separately for each image, a rectangle of 2 % to a third of the image's area is replaced.

    Args:
        key: a jax key.
        images: float [B, H, W, C], already normalised, so that the noise has the images' mean and variance.
        prob: share of images.

    Returns:
        [B, H, W, C] in the images' dtype.
    """
    _check(erase_prob=prob)
    if prob == 0:
        return images
    apply_key, box_key, noise_key = jax.random.split(key, 3)
    count, height, width, _ = images.shape
    rows, columns, found = erasing_boxes(box_key, count, height, width)
    erased = found & jax.random.bernoulli(apply_key, prob, (count,))
    inside = _inside(rows, columns, height, width) & erased[:, None, None]  # [B, H, W]
    noise = jax.random.normal(noise_key, images.shape, jnp.float32).astype(images.dtype)
    return jnp.where(inside[..., None], noise, images)


def erasing_boxes(key: jax.Array, count: int, height: int, width: int) -> tuple[tuple, tuple, jax.Array]:
    """`count` rectangles for random erasing: the first of ten drawn for each that is smaller than the image both ways.

    Returns:
        Half-open ranges (top, bottom) and (left, right), int32 [count] each, and bool [count]: whether one fits.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    shape = (count, ERASE_ATTEMPTS)
    area = height * width * jax.random.uniform(area_key, shape, minval=ERASE_AREA[0], maxval=ERASE_AREA[1])
    low, high = map(math.log, ERASE_ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = fits.argmax(1)[:, None]
    h, w = (jnp.take_along_axis(sides, first, 1)[:, 0] for sides in (heights, widths))
    place = jax.random.uniform(place_key, (2, count))
    top, left = _index(place[0], height - h + 1), _index(place[1], width - w + 1)
    return (top, top + h), (left, left + w), fits.any(1)


def _index(position: jax.Array, size: jax.Array | int) -> jax.Array:
    """A position in [0, 1) as an index below `size`; float32 rounding must not reach `size` itself."""
    return jnp.minimum((position * size).astype(jnp.int32), size - 1)


def _inside(rows: tuple, columns: tuple, height: int, width: int) -> jax.Array:
    """Boxes given by half-open ranges of shape [...] as bool masks [..., H, W]."""
    (top, bottom), (left, right) = (tuple(jnp.asarray(end)[..., None] for end in ends) for ends in (rows, columns))
    y, x = jnp.arange(height), jnp.arange(width)
    return ((y >= top) & (y < bottom))[..., :, None] & ((x >= left) & (x < right))[..., None, :]


def _blend(x: jax.Array, own: jax.Array) -> jax.Array:
    """own * x + (1 - own) * x reversed along the batch, in float32; x itself, NaN included, where own is 1."""
    mine, partner = x.astype(jnp.float32), x[::-1].astype(jnp.float32)
    return jnp.where(own == 1, mine, own * mine + (1.0 - own) * partner)


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if value < 0 or (name.endswith("_prob") and value > 1):
            allowed = "a probability in [0, 1]" if name.endswith("_prob") else "0 (off) or above"
            raise ConfigError(f"config key 'data.augment.{name}' must be {allowed}, got {value}")
