"""The names that timm, transformers, torchvision, open_clip and others give to architectures; used only in messages."""

import re
from collections.abc import Iterable

from vision_jax.errors import nearest

_SIZES = {"tiny": "ti", "ti": "ti", "small": "s", "base": "b", "large": "l", "huge": "h"} | {x: x for x in "tsblh"}
_FAMILIES = ("swinv2", "swin", "mae", "clip", "resnet", "vit")


def model_hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about a model name that is not among the `known` ones."""
    known = list(known)
    if ours := [each for each in names_meant(name) if each in known]:
        hint = f"; did you mean {' or '.join(map(repr, ours))}?"
        return hint + (
            f" config.init_from={name!r} starts from its weights" if re.fullmatch(r"\w+/[\w.-]+", name) else ""
        )
    if close := nearest(name, known, 0.8):
        return f"; did you mean '{close}'?"
    family = next((each for each in _FAMILIES if each in name.lower()), "")
    kin = [each for each in known if family and each.startswith(family)]
    return f"; there are {', '.join(kin or _FAMILIES)}{', ...' * (not kin)} (vision_jax.list_models() has all)"


def names_meant(name: str) -> list[str]:
    """Our names, likeliest first, for "vit_base_patch16_224", "google/vit-base-patch16-224", "ViT-B/16", "swin_v2_t" and
    the like; [] for anything else."""
    text = re.sub(r"[^a-z0-9]+", "_", name.lower())
    if found := re.search(r"(?:^|_)rn(\d+(?:x\d+)?)(?:_|$)", text):  # OpenAI's
        return [f"clip_rn{found[1]}"]
    text = re.sub(r"(vit)([tsblh])_?(\d)", r"\1_\2_\3", text)
    size = next((_SIZES[word] for word in text.split("_") if word in _SIZES), None)
    if size is None:
        return []
    if "swin" in text:
        return [_swin(text, size.removesuffix("i"))]
    if not re.search("vit|deit|mae|clip|beit", text):
        return []
    patch = re.search(r"(?:patch_?|_[tsblh]_?)(\d+)(?:_|$)", text)
    towers = [f"{'ti' if size == 't' else size}{number}" for number in ([patch[1]] if patch else (16, 32, 14, 8))]
    if "mae" in text:
        return [f"mae_vit_{tower}" for tower in towers]
    of_clip = [f"clip_vit_{tower}" + "_336" * ("336" in text) for tower in towers]
    if "clip" in text:
        return of_clip
    # open_clip's ViT-B-32 is a CLIP; for others that name is a ViT.
    is_either = re.fullmatch(r"ViT-[BLH][-/]\d+(-\d+)?", name)
    return [f"vit_{tower}" for tower in towers] + of_clip * bool(is_either)


def _swin(text: str, size: str) -> str:
    family = "swinv2" if re.search(r"swin_?(transformer_?)?v2", text) else "swin"
    window = re.search(r"window_?(\d+)(to_?\d+)?", text)
    usual = {"swin": "7", "swinv2": "8"}[family]
    if not window or (window[1] == usual and not window[2]):
        return f"{family}_{size}"
    wider = window[2].replace("_", "") if window[2] else ""
    return f"{family}_{size}_w{window[1]}{wider}"
