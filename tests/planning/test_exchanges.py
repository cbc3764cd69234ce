"""What the compiled steps of all architectures exchange: parameters and gradients, but no activations that need not be."""

import collections
import functools
import re

import jax
import pytest
from test_configs import shrink

from vision_jax.command_line import load_config
from vision_jax.errors import ConfigError
from vision_jax.models import create_model
from vision_jax.models.inference import variable_shapes
from vision_jax.models.stacking import path_name
from vision_jax.planning.compiled import compile_plan
from vision_jax.training.partitioning import param_spec
from vision_jax.training.setup import prepare

CONFIGS = {"vit": "vit_s16", "swin": "swin_tiny", "mae": "mae_vitb", "clip": "clip_vitb32"}
FSDP = {"data": 1, "fsdp": 8, "tensor": 1}
MIXED = {"data": 2, "fsdp": 2, "tensor": 2}
BATCH = 32
# Bytes of what enters an attention or an MLP of an example: tokens x width x 4 of each block. Swin's first stage: 8 x 8
# tokens, of which windows of 7 make 14 x 14 in front of its attention.
ACTIVATIONS = {
    "vit": 4 * 32 * 4,
    "swin": 2 * 14 * 14 * 16 * 4 + 16 * 32 * 4,
    "mae": (2 * 32 + 5 * 16) * 4,
    "clip": (5 * 32 + 77 * 32) * 4,
}


@functools.cache
def exchanged(architecture: str, batch: int, scan: bool = True, **mesh) -> dict[str, float]:
    """Bytes that a device receives in a step of a shrunken model, by kind of exchange."""
    config = shrink(load_config(f"configs/{CONFIGS[architecture]}.py"))
    config.model = dict(scan=scan)
    config.mesh = dict(mesh, fsdp_min_size=64)
    config.batch_size = batch
    config.optimizer.accumulate = 1
    config.data.augment.mixup = config.data.augment.cutmix = 0.0  # which pair examples of different devices
    _, _, work = compile_plan(prepare(config))
    total = collections.Counter()
    for exchange in work.collectives:
        total[exchange.kind] += exchange.received
    return dict(total)


def growth(architecture: str, mesh: dict, scan: bool = True) -> dict[str, float]:
    """What a device receives more for each example that it has more, by kind of exchange."""
    one, two = (exchanged(architecture, batch, scan, **mesh) for batch in (BATCH, 2 * BATCH))
    examples = BATCH // (mesh["data"] * mesh["fsdp"])
    return {kind: (two.get(kind, 0) - one.get(kind, 0)) / examples for kind in one | two}


slow = pytest.mark.slow


@pytest.mark.parametrize("architecture", ["vit", pytest.param("swin", marks=slow), pytest.param("mae", marks=slow)])
def test_fsdp_exchanges_nothing_of_an_example(architecture):
    assert sum(exchanged(architecture, BATCH, **FSDP).values()) > 0
    grown = growth(architecture, FSDP)
    assert not any(grown.values()), grown


@slow
def test_clip_gathers_the_embeddings_alone():
    """Image and text embeddings of float32[16] and a few numbers for each of the 8 examples that the 8 devices have more."""
    grown = growth("clip", FSDP)
    gathered = grown.pop("all-gather")
    assert not any(grown.values()), grown
    assert 2 * 16 * 4 * 7 <= gathered < 1.2 * 2 * 16 * 4 * 7


@pytest.mark.parametrize(
    "architecture",
    ["vit", *(pytest.param(name, marks=slow) for name in ("swin", "mae", "clip"))],
)
def test_tensor_parallelism_reduces_activations_and_gathers_none(architecture):
    """Megatron's sums after attention and MLP, and before them on the way back (for queries, keys and values apart)."""
    grown = growth(architecture, MIXED)
    assert 0 < grown.pop("all-reduce") <= 1.1 * 6 * ACTIVATIONS[architecture]
    embeddings = 2 * 16 * 4 * 4 if architecture == "clip" else 0
    assert all(abs(size) <= embeddings for size in grown.values()), grown


@pytest.mark.parametrize("name", ["vit_l16", "swin_b", "swinv2_b", "mae_vit_h14", "clip_vit_l14", "clip_rn50"])
def test_no_large_parameter_is_left_whole(name):
    model = create_model(name)
    size = 256 if "v2" in name else 224
    sizes = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variable_shapes(model, (size, size))["params"]):
        place = param_spec(path_name(path), leaf.shape, {"data": 1, "fsdp": 8, "tensor": 4}, (), 65536)
        assert "fsdp" in place or leaf.size < 65536, path_name(path)
        assert "tensor" in place or not re.search("/(attn/(query|key|value|out)|mlp/fc[12])/kernel", path_name(path))
        sizes["fsdp" in place] += leaf.size
    assert sizes[False] < 0.03 * sizes[True]


def test_heads_that_do_not_split_are_told():
    config = shrink(load_config("configs/swin_tiny.py"))
    config.model = dict(num_heads=(1, 2))
    config.mesh = MIXED
    with pytest.raises(ConfigError, match=r"mesh.tensor=2 must divide .* 'num_heads' is \(1, 2\)"):
        prepare(config)
    config = shrink(load_config("configs/clip_vitb32.py"))
    config.model = dict(image=dict(num_heads=1))
    config.mesh = MIXED
    with pytest.raises(ConfigError, match=r"'image\.num_heads' is 1"):
        prepare(config)
