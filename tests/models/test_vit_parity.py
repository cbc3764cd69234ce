"""Our ViT and hybrid against transformers' and timm's on the same random parameters, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.models import ViT

torch = pytest.importorskip("torch")
from torch_peers import compare, conv, images_of, linear, norm, randomize  # noqa: E402


@pytest.mark.parametrize(
    ("size", "patch", "width", "heads", "act", "eps"),
    [
        ((48, 80), 16, 24, 3, "gelu", 1e-12),
        ((28, 21), 7, 40, 5, "relu", 1e-5),
        ((24, 6), 3, 14, 7, "quick_gelu", 1e-6),
    ],
)
def test_vit_is_that_of_transformers(size, patch, width, heads, act, eps):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=2 * width + 3,
            image_size=size,
            patch_size=patch,
            num_labels=5,
            hidden_act=act,
            layer_norm_eps=eps,
        )
    )
    state = randomize(theirs)
    params = {
        "cls_token": state["vit.embeddings.cls_token"],
        "pos_embed": state["vit.embeddings.position_embeddings"],
        "patch_embed": {
            **conv(state, "vit.embeddings.patch_embeddings.projection"),
            "bias": state["vit.embeddings.patch_embeddings.projection.bias"],
        },
        "norm": norm(state, "vit.layernorm"),
        "head": linear(state, "classifier"),
    }
    for i in range(2):
        name = f"vit.layers.{i}"
        projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
        params[f"blocks_{i}"] = {
            "norm1": norm(state, f"{name}.layernorm_before"),
            "attn": {ours: linear(state, f"{name}.attention.{their}") for ours, their in projections.items()},
            "norm2": norm(state, f"{name}.layernorm_after"),
            "mlp": {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
        }
    ours = ViT(5, patch, width, 2, heads, 2 * width + 3, act=act, norm_eps=eps)
    compare(ours, params, theirs, images_of(size))


def timm_block(state, name):
    kernels = np.split(state[f"{name}.attn.qkv.weight"].T, 3, axis=1)
    biases = np.split(state[f"{name}.attn.qkv.bias"], 3)
    attn = {
        part: {"kernel": kernel, "bias": bias}
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
    }
    return {
        "norm1": norm(state, f"{name}.norm1"),
        "attn": {**attn, "out": linear(state, f"{name}.attn.proj")},
        "norm2": norm(state, f"{name}.norm2"),
        "mlp": {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
    }


def timm_unit(state, name):
    unit = {}
    for i in (1, 2, 3):
        unit |= {f"conv{i}": conv(state, f"{name}.conv{i}"), f"gn{i}": norm(state, f"{name}.norm{i}")}
    if f"{name}.downsample.conv.weight" in state:
        unit |= {"conv_proj": conv(state, f"{name}.downsample.conv"), "gn_proj": norm(state, f"{name}.downsample.norm")}
    return unit


@pytest.mark.parametrize(("units", "patch", "size"), [((2, 1), 1, (40, 24)), ((), 2, (48, 32))])
def test_hybrid_is_timm_s(units, patch, size):
    """timm's epsilons are set to Google's; weights stand far above the one that standardisation adds in another place."""
    pytest.importorskip("timm")
    from timm.layers import HybridEmbed, StdConv2dSame
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import _resnetv2

    backbone = _resnetv2(units)
    theirs = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=24,
        depth=1,
        num_heads=3,
        num_classes=5,
        embed_layer=functools.partial(HybridEmbed, backbone=backbone),
    )
    for module in backbone.modules():
        if isinstance(module, StdConv2dSame):
            module.eps = 1e-12
        elif isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-6
    randomize(theirs)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter *= 5
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    root = "patch_embed.backbone"
    stem_name = f"{root}.stem" if units else root
    stem = {"conv_root": conv(state, f"{stem_name}.conv"), "gn_root": norm(state, f"{stem_name}.norm")}
    for s, count in enumerate(units):
        stem[f"stages_{s}"] = {f"units_{u}": timm_unit(state, f"{root}.stages.{s}.blocks.{u}") for u in range(count)}
    params = {
        "backbone": stem,
        "patch_embed": {**conv(state, "patch_embed.proj"), "bias": state["patch_embed.proj.bias"]},
        "cls_token": state["cls_token"],
        "pos_embed": state["pos_embed"],
        "blocks_0": timm_block(state, "blocks.0"),
        "norm": norm(state, "norm"),
        "head": linear(state, "head"),
    }
    compare(ViT(5, patch, 24, 1, 3, 96, stem=units, act="gelu"), params, theirs, images_of(size))


def test_registers_layer_scale_gap_and_positions_without_cls_are_timm_s():
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(
        img_size=(12, 20),
        patch_size=4,
        embed_dim=24,
        depth=1,
        num_heads=3,
        num_classes=5,
        init_values=0.1,
        reg_tokens=2,
        no_embed_class=True,
        global_pool="avg",
        fc_norm=False,
    )
    state = randomize(theirs)
    block = timm_block(state, "blocks.0")
    block |= {"ls1": state["blocks.0.ls1.gamma"], "ls2": state["blocks.0.ls2.gamma"]}
    params = {
        "patch_embed": {**conv(state, "patch_embed.proj"), "bias": state["patch_embed.proj.bias"]},
        "cls_token": state["cls_token"],
        "registers": state["reg_token"],
        "pos_embed": state["pos_embed"],
        "blocks_0": block,
        "norm": norm(state, "norm"),
        "head": linear(state, "head"),
    }
    ours = ViT(
        5,
        4,
        24,
        1,
        3,
        96,
        act="gelu",
        pool="gap",
        cls_token=True,
        num_registers=2,
        posemb_cls=False,
        layer_scale_init=1.0,
    )
    compare(ours, params, theirs, images_of((12, 20)))


def test_attention_pooling_is_torch_s():
    from vision_jax.models.layers import MapHead

    attention = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    normalize = torch.nn.LayerNorm(24, eps=1e-6)
    mlp = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 24))
    theirs = torch.nn.ModuleDict({"attn": attention, "norm": normalize, "mlp": mlp})
    state = randomize(theirs)
    probe, x = (
        np.random.default_rng(i).normal(size=shape).astype(np.float32)
        for i, shape in enumerate([(1, 1, 24), (2, 7, 24)])
    )
    with torch.no_grad():
        tokens = torch.from_numpy(x)
        y = attention(torch.from_numpy(probe).expand(2, 1, 24), tokens, tokens)[0]
        expected = (y + mlp(normalize(y)))[:, 0].numpy()
    names = ("query", "key", "value")
    kernels, biases = np.split(state["attn.in_proj_weight"].T, 3, axis=1), np.split(state["attn.in_proj_bias"], 3)
    params = {
        "probe": probe,
        "attn": {
            **{name: {"kernel": k, "bias": b} for name, k, b in zip(names, kernels, biases, strict=True)},
            "out": linear(state, "attn.out_proj"),
        },
        "norm": norm(state, "norm"),
        "mlp": {"fc1": linear(state, "mlp.0"), "fc2": linear(state, "mlp.2")},
    }
    got = MapHead(3, 32, act="relu").apply({"params": jax.tree.map(jnp.asarray, params)}, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
