"""preprocessor_config.json of transformers, which has the preprocessing that config.json lacks."""

import math
import re
from collections.abc import Mapping
from typing import Any

from vision_jax.errors import ConfigError
from vision_jax.weights.families.clip_openai import OPENAI
from vision_jax.weights.families.description import HALF, pair, preprocessing, real, whole

_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_DEFAULTS = {"ViT": preprocessing(HALF, "bilinear", "squash"), "CLIP": preprocessing(OPENAI)}


def read_processor(config: Mapping, defaults: Mapping) -> dict[str, Any]:
    """Preprocessing from the file; what it leaves out comes from its processor class, or else from `defaults`.

    Raises ConfigError for preprocessing that is not supported.
    """
    if not (config.get("do_resize", True) and config.get("do_normalize", True) and config.get("do_rescale", True)):
        raise ConfigError("preprocessor_config.json leaves out do_resize, do_rescale or do_normalize")
    if abs(real({"rescale_factor": 1 / 255, **config}, "rescale_factor") * 255 - 1) > 1e-3:
        raise ConfigError(f"preprocessor_config.json has rescale_factor={config['rescale_factor']}, not 1 / 255")
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    defaults = _DEFAULTS.get(re.split("ImageProcessor|FeatureExtractor", kind)[0], defaults)
    read = dict(defaults)
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in config:
            read[ours] = config[theirs]
    if (number := config.get("resample")) is not None:
        if type(number) is not int or number not in _RESAMPLING:
            raise ConfigError(f"preprocessor_config.json has resample={number}, not 2 (bilinear) or 3 (bicubic)")
        read["interpolation"] = _RESAMPLING[number]
    read |= _resizing(config, defaults)
    return preprocessing(read, read["interpolation"], read["eval_resize"], read["eval_crop"])


def _resizing(config: Mapping, defaults: Mapping) -> dict[str, Any]:
    size, crop = (_sides(config, name) for name in ("size", "crop_size"))
    if size is None:
        return {}
    crops = config.get("do_center_crop", defaults.get("eval_resize") == "crop")
    if isinstance(size, int):  # in old files: the short side if the processor crops, else both
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    if "shortest_edge" not in size and not crops:
        return {"eval_resize": "squash", "eval_crop": 1.0}
    crop = min(crop.values()) if isinstance(crop, Mapping) else crop
    if "shortest_edge" not in size or not crops or crop is None:
        raise ConfigError(
            f"preprocessor_config.json has size={size}, crop_size={crop} and do_center_crop={crops}: neither a squashed "
            "picture nor the centre of one whose short side is resized"
        )
    return {"eval_resize": "crop", "eval_crop": _share(crop, size["shortest_edge"])}


def _sides(config: Mapping, name: str) -> int | dict[str, int] | None:
    """A size as the file has it: pixels, or a dict of pixels with keys such as "height"."""
    if isinstance(sizes := config.get(name), list):
        return dict(zip(("height", "width"), pair(sizes), strict=True))
    if isinstance(sizes, Mapping):
        return {side: whole(sizes, side) for side, pixels in sizes.items() if pixels is not None} or None
    return None if sizes is None else whole(config, name)


def _share(size: int, edge: int) -> float:
    """size / edge, adjusted so that floor(size / share) is the edge again."""
    share = size / edge
    return share if math.floor(size / share) == edge else math.nextafter(share, 0.0)


def write_processor(ours: Mapping, image_size: tuple[int, int]) -> dict[str, Any]:
    """preprocessor_config.json that makes transformers do the same. Raises ConfigError for crops of rectangles."""
    height, width = image_size
    both = {"height": height, "width": width}
    config = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours["mean"]),
        "image_std": list(ours["std"]),
        "resample": next(number for number, name in _RESAMPLING.items() if name == ours["interpolation"]),
    }
    if ours["eval_resize"] == "squash":
        return {**config, "image_processor_type": "ViTImageProcessor", "do_center_crop": False, "size": both}
    if height != width:
        raise ConfigError(f"transformers crops squares alone, not {image_size}; eval_resize='squash' has no crop")
    edge = math.floor(height / ours["eval_crop"])
    crop = {"do_center_crop": True, "size": {"shortest_edge": edge}, "crop_size": both}
    return {**config, "image_processor_type": "CLIPImageProcessor", **crop}
