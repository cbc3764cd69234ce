"""Our Swin, V1 and V2, against transformers' and timm's on the same random parameters, in float32."""

import jax
import numpy as np
import pytest

from vision_jax.models import Swin, create_model

torch = pytest.importorskip("torch")
from torch_peers import compare, conv, images_of, linear, norm, randomize  # noqa: E402


def build(depths, block, downsample):
    """stages_s of blocks_b, each but the last stage with what merges its map."""
    stages = {}
    for s, depth in enumerate(depths):
        stage = {f"blocks_{b}": block(s, b) for b in range(depth)}
        stages[f"stages_{s}"] = stage | ({"downsample": downsample(s)} if s < len(depths) - 1 else {})
    return stages


def table(state, name, window=None):
    """The official table of (2p-1)(2q-1) rows on its grid; a square one unless `window` is given."""
    rows = state[name]
    side = int((np.sqrt(len(rows)) + 1) / 2)
    p, q = window or (side, side)
    return rows.reshape(2 * p - 1, 2 * q - 1, -1)


def of_transformers(state, depths):
    """Parameters of SwinForImageClassification or Swinv2ForImageClassification in our tree."""
    root = "swinv2" if "swinv2.layernorm.weight" in state else "swin"

    def block(s, b):
        name = f"{root}.encoder.layers.{s}.blocks.{b}"
        if root == "swin":
            projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
            attn = {ours: linear(state, f"{name}.attention.{their}") for ours, their in projections.items()}
            bias = "relative_position_bias_table"
            attn[bias] = table(state, f"{name}.attention.relative_position_bias.{bias}")
            mlp = {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")}
        else:
            own = f"{name}.attention.self"
            attn = {ours: linear(state, f"{own}.{ours}") for ours in ("query", "value")}
            attn |= {"key": {"kernel": state[f"{own}.key.weight"].T}}
            attn |= {"out": linear(state, f"{name}.attention.output.dense")}
            cpb = f"{own}.continuous_position_bias_mlp"
            attn["cpb_mlp"] = {"hidden": linear(state, f"{cpb}.0"), "out": {"kernel": state[f"{cpb}.2.weight"].T}}
            attn["logit_scale"] = state[f"{own}.logit_scale"].reshape(-1)
            mlp = {"fc1": linear(state, f"{name}.intermediate.dense"), "fc2": linear(state, f"{name}.output.dense")}
        norms = {"norm1": norm(state, f"{name}.layernorm_before"), "norm2": norm(state, f"{name}.layernorm_after")}
        return {"attn": attn, "mlp": mlp, **norms}

    def downsample(s):
        name = f"{root}.encoder.layers.{s}.downsample"
        reduction = {"kernel": state[f"{name}.reduction.weight"].T}
        return {"reduction": reduction, "norm": norm(state, f"{name}.norm")}

    patch = f"{root}.embeddings.patch_embeddings.projection"
    return build(depths, block, downsample) | {
        "patch_embed": {**conv(state, patch), "bias": state[f"{patch}.bias"]},
        "patch_norm": norm(state, f"{root}.embeddings.norm"),
        "norm": norm(state, f"{root}.layernorm"),
        "head": linear(state, "classifier"),
    }


def compare_stages(ours, params, theirs, images):
    """Each stage's map before it is merged, against what leaves the last block of theirs."""
    captured = []

    def keep(module, inputs, output):
        captured.append((output[0] if isinstance(output, tuple) else output).numpy())

    body = getattr(theirs, "swinv2", None) or theirs.swin
    hooks = [layer.blocks[-1].register_forward_hook(keep) for layer in body.encoder.layers]
    with torch.no_grad():
        theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    for hook in hooks:
        hook.remove()
    maps = jax.jit(lambda params: ours.apply({"params": params}, images, method="features"))(params)
    assert len(maps) == len(captured)
    for got, expected in zip(maps, captured, strict=True):
        np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=1e-5, atol=2e-5)


CASES = {  # size of the image, window, depths, patch; transformers lets tokens see the padding
    "whole windows, shifted": ((32, 48), 4, (2, 2), 2),
    "odd numbers of blocks": ((32, 32), 4, (3, 1), 2),
    "window does not divide": ((26, 42), 4, (2, 3), 2),
    "window as large as the map": ((16, 24), 4, (2, 2), 2),
    "odd maps, patch does not divide": ((37, 47), 3, (2, 2, 2), 2),
}
WIDER = {"window larger than the map": ((16, 40), 6, (2, 2), 2), "one row": ((4, 24), 3, (2, 2), 2)}


@pytest.mark.parametrize(
    ("version", "case"), [(1, case) for case in CASES.values()] + [(2, case) for case in (CASES | WIDER).values()]
)
def test_swin_is_that_of_transformers(version, case):
    transformers = pytest.importorskip("transformers")
    size, window, depths, patch = case
    config = dict(
        image_size=size,
        patch_size=patch,
        embed_dim=12,
        depths=list(depths),
        num_heads=[2, 3, 4][: len(depths)],
        window_size=window,
        mlp_ratio=2.0,
        num_labels=5,
        layer_norm_eps=1e-5,
    )
    if version == 1:
        theirs = transformers.SwinForImageClassification(transformers.SwinConfig(**config))
    else:
        theirs = transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**config))
    params = of_transformers(randomize(theirs), depths)
    ours = Swin(
        5,
        patch,
        width=12,
        depths=depths,
        num_heads=(2, 3, 4)[: len(depths)],
        window=window,
        version=version,
        mlp_ratio=2.0,
        mask_padding=False,
    )
    compare(ours, params, theirs, images_of(size))
    compare_stages(ours, params, theirs, images_of(size))


@pytest.mark.parametrize(("name", "size"), [("swin_t", 224), ("swinv2_t", 256), ("swinv2_t_w16", 256)])
def test_standard_sizes_are_those_of_transformers(name, size):
    transformers = pytest.importorskip("transformers")
    ours = create_model(name, num_classes=10, mask_padding=False)
    kind = "Swin" if ours.version == 1 else "Swinv2"
    config = getattr(transformers, f"{kind}Config")(image_size=size, window_size=ours.window, num_labels=10)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config)
    state = randomize(theirs, scale=0.08)
    params = of_transformers(state, ours.depths)
    compare(ours, params, theirs, images_of((size, size))[:1])


def test_v2_with_a_pretrained_window_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.Swinv2Config(
        image_size=32,
        patch_size=2,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 3],
        window_size=8,
        pretrained_window_sizes=[6, 3],
        num_labels=5,
    )
    theirs = transformers.Swinv2ForImageClassification(config)
    params = of_transformers(randomize(theirs), (2, 2))
    fields = dict(width=12, depths=(2, 2), num_heads=(2, 3), window=8, version=2)
    ours = Swin(5, 2, pretrained_window=(6, 3), **fields)
    compare(ours, params, theirs, images_of((32, 32)))


def of_timm(state, depths, windows, window):
    """timm's V1: the merging opens a stage, and tables have the size of the window that fits the stage's map."""

    def block(s, b):
        name = f"layers.{s}.blocks.{b}"
        kernels = np.split(state[f"{name}.attn.qkv.weight"].T, 3, axis=1)
        biases = np.split(state[f"{name}.attn.qkv.bias"], 3)
        parts = zip(("query", "key", "value"), kernels, biases, strict=True)
        attn = {part: {"kernel": kernel, "bias": bias} for part, kernel, bias in parts}
        small = table(state, f"{name}.attn.relative_position_bias_table", windows[s])
        full = np.full((2 * window - 1, 2 * window - 1, small.shape[-1]), 1e3, np.float32)  # must not be read
        top, left = (window - side for side in windows[s])
        full[top : top + small.shape[0], left : left + small.shape[1]] = small
        attn |= {"out": linear(state, f"{name}.attn.proj"), "relative_position_bias_table": full}
        mlp = {fc: linear(state, f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")}
        return {"attn": attn, "mlp": mlp, "norm1": norm(state, f"{name}.norm1"), "norm2": norm(state, f"{name}.norm2")}

    def downsample(s):
        name = f"layers.{s + 1}.downsample"
        return {"reduction": {"kernel": state[f"{name}.reduction.weight"].T}, "norm": norm(state, f"{name}.norm")}

    return build(depths, block, downsample) | {
        "patch_embed": {**conv(state, "patch_embed.proj"), "bias": state["patch_embed.proj.bias"]},
        "patch_norm": norm(state, "patch_embed.norm"),
        "norm": norm(state, "norm"),
        "head": linear(state, "head.fc"),
    }


@pytest.mark.parametrize(
    ("size", "window", "windows"),
    [
        ((16, 48), 4, [(4, 4), (4, 4)]),  # the second stage's map is 4 by 12: only its columns shift
        ((8, 24), 6, [(4, 6), (2, 6)]),
        ((24, 8), 6, [(6, 4), (6, 2)]),
    ],
)
def test_window_larger_than_the_map_is_timm_s_by_axis(size, window, windows):
    pytest.importorskip("timm")
    from timm.models.swin_transformer import SwinTransformer

    theirs = SwinTransformer(
        img_size=size,
        patch_size=2,
        num_classes=5,
        embed_dim=12,
        depths=(2, 2),
        num_heads=(2, 3),
        window_size=window,
        mlp_ratio=2.0,
    )
    params = of_timm(randomize(theirs), (2, 2), windows, window)
    fields = dict(width=12, depths=(2, 2), num_heads=(2, 3), window=window, mlp_ratio=2.0, window_rule="axis")
    compare(Swin(5, 2, **fields), params, theirs, images_of(size))
