"""How each parameter trains: decay, learning rate scale and freezing, by parameter path."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import jax

from vision_jax.errors import ConfigError
from vision_jax.models.stacking import path_name
from vision_jax.patterns import path_pattern

# tower/stages_2/blocks_5/..., units_5 of a ResNet, and tower/blocks/... for a stack of scanned layers
_BLOCK = re.compile(r"(?P<tower>(?:[^/]+/)*?)(?:stages_(?P<stage>\d+)/)?(?:blocks|units)(?:_(?P<block>\d+))?/.*")
_STAGE = re.compile(r"stages_(\d+)/")
_STEM = re.compile(
    r"(cls(_token)?|class_embed(ding)?|pos(itional)?_embed(ding)?|patch_embed(ding)?|patch_norm|token_embed(ding)?|embedding"
    r"|reg(ister)?s|reg(ister)?_tokens?|mask_token|norm_pre|ln_pre|pre_norm|stem|backbone|conv\d|bn\d)(/.*)?"
)


class ParamGroup(NamedTuple):
    """How one parameter trains."""

    path: str  # '/'-joined
    size: int  # elements
    decays: bool  # weight decay, and the trust ratio of lars and lamb, apply to it
    lr_scale: float | tuple[float, ...]  # relative to the schedule; one per layer of a scanned stack; 0 if frozen
    frozen: bool
    stacked: bool  # the leading axis counts the layers of a scanned stack


def param_groups(config, params) -> list[ParamGroup]:
    """One row per parameter, in the order of `jax.tree.leaves(params)`.

    Patterns are regular expressions that must match a whole path (see `patterns.path_pattern`). A stack of scanned
    layers (`blocks/attn/out/kernel`) is one parameter and can only be frozen as a whole.

    Args:
      config: the whole config; reads `optimizer.decay`, `.freeze`, `.lr_scale` and `.layer_decay`.
      params: nested dictionary of arrays or `jax.ShapeDtypeStruct`s; only paths and shapes are read.
    Raises:
      ConfigError for a pattern that matches no parameter, for a factor that is not positive, if nothing is left to
        train, and if there are no blocks for `layer_decay` to count.
    """
    optimizer = config.optimizer
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    decay = [_pattern("decay", pattern, shapes) for pattern in _listed(optimizer.decay)]
    freeze = [_pattern("freeze", pattern, shapes) for pattern in _listed(optimizer.freeze)]
    factors = _lr_factors(optimizer.lr_scale, shapes)
    layer_scales = _layer_scales(optimizer.layer_decay, shapes)

    def group(path: str, shape: tuple) -> ParamGroup:
        stacked = is_stacked(path)
        if any(pattern.fullmatch(path) for pattern in freeze):
            return ParamGroup(path, math.prod(shape), False, 0.0, True, stacked)
        decays = any(pattern.fullmatch(path) for pattern in decay)
        factor = next((factor for pattern, factor in factors if pattern.fullmatch(path)), 1.0)
        scale = layer_scales[path]
        scale = tuple(factor * s for s in scale) if isinstance(scale, tuple) else factor * scale
        return ParamGroup(path, math.prod(shape), decays, scale, False, stacked)

    groups = [group(path, shape) for path, shape in shapes.items()]
    if all(row.frozen for row in groups):
        raise ConfigError(f"config key 'optimizer.freeze' leaves no parameter to train, got {optimizer.freeze!r}")
    return groups


def is_stacked(path: str) -> bool:
    """Whether the parameter belongs to a stack of scanned layers, with layers along its leading axis."""
    match = _BLOCK.fullmatch(path)
    return match is not None and match["block"] is None


def layers_above(shapes: Mapping[str, tuple]) -> dict[str, int | tuple[int, ...]]:
    """L + 1 - id for every parameter: how many layers are above its own in a model of L blocks.

    Ids are BEiT's and MAE's (MAE's util/lr_decay.py): embeddings and everything else before the blocks, including a
    hybrid's `backbone`, have id 0, block i has i + 1 and the rest (final norm, head) L + 1. Blocks are numbered through
    all stages in order, and the rest of a stage (Swin's downsampling) belongs to its last block, as in SimMIM's
    optimizer.py. Each tower of a model with several counts separately; what belongs to no tower is "the rest".

    Args:
      shapes: path -> shape; only the leading axis of scanned stacks is read.
    Returns:
      path -> number, or one number per layer of a scanned stack.
    """
    blocks, depths = {}, defaultdict(lambda: defaultdict(int))  # depths: tower -> stage -> number of blocks
    for path, shape in shapes.items():
        match = _BLOCK.fullmatch(path)
        if match and "backbone/" not in match["tower"]:
            blocks[path] = match
            depth = shape[0] if match["block"] is None else int(match["block"]) + 1
            stages = depths[match["tower"]]
            stages[int(match["stage"] or 0)] = max(stages[int(match["stage"] or 0)], depth)

    def above(path: str) -> int | tuple[int, ...]:
        tower = max((tower for tower in depths if path.startswith(tower)), key=len, default=None)
        if tower is None:
            return 0
        inside = path.removeprefix(tower)
        in_stage = _STAGE.match(inside)
        stage = int(in_stage[1]) if in_stage else 0
        from_here = sum(depth for other, depth in depths[tower].items() if other >= stage)  # blocks, with this stage's
        if path in blocks:
            block = blocks[path]["block"]
            return from_here - int(block) if block else tuple(range(from_here, from_here - shapes[path][0], -1))
        if in_stage:
            return from_here - depths[tower][stage] + 1
        return from_here + 1 if _STEM.fullmatch(inside) else 0

    return {path: above(path) for path in shapes}


def _layer_scales(layer_decay: float, shapes: Mapping[str, tuple]) -> dict[str, float | tuple[float, ...]]:
    """layer_decay ** (L + 1 - id) for every parameter."""
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"config key 'optimizer.layer_decay' must lie in (0, 1], got {layer_decay}")
    if layer_decay == 1:
        return dict.fromkeys(shapes, 1.0)
    above = layers_above(shapes)
    if not any(above.values()):
        raise ConfigError("config key 'optimizer.layer_decay': the model has no 'blocks_0', 'blocks_1', ... to count")
    return {
        path: tuple(layer_decay**n for n in number) if isinstance(number, tuple) else layer_decay**number
        for path, number in above.items()
    }


def _listed(patterns: str | tuple) -> tuple:
    return tuple(filter(None, (patterns,))) if isinstance(patterns, str) else patterns


def _lr_factors(pairs: tuple, paths) -> list[tuple[re.Pattern, float]]:
    factors = []
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], int | float)):
            raise ConfigError(f"config key 'optimizer.lr_scale' takes (regular expression, factor) pairs, got {pair!r}")
        if not 0 < pair[1] < math.inf:
            raise ConfigError(
                f"config key 'optimizer.lr_scale': the factor of {pair[0]!r} must be positive, got {pair[1]}"
                " ('optimizer.freeze' keeps parameters as they are)"
            )
        factors.append((_pattern("lr_scale", pair[0], paths), float(pair[1])))
    return factors


def _pattern(key: str, pattern: str, paths) -> re.Pattern:
    return path_pattern(f"config key 'optimizer.{key}'", pattern, paths)
