"""ViT's files of Google: by their documented names and shapes, and as timm's own reader takes them."""

import re

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from vision_jax.errors import ConfigError
from vision_jax.models import ViT
from vision_jax.weights.families import vit_google
from vision_jax.weights.mapping import export_variables

pytest.importorskip("torch")
from originals import assert_close, images_of
from vit_peers import drawn, loaded, randomize, theirs_of, timm_hybrid


def google_arrays(params, heads, attention="MultiHeadDotProductAttention_1", norm2="LayerNorm_2", mlp="MlpBlock_3"):
    """Our parameters, path -> array, by Google's names and in its shapes."""
    arrays = {}
    for path, values in params.items():
        *parts, leaf = path.split("/")
        part = "/".join(parts)
        for ours, theirs in (
            (r"^map_head/attn", "MAPHead_0/MultiHeadDotProductAttention_0"),
            (r"^map_head/norm", "MAPHead_0/LayerNorm_0"),
            (r"^map_head/mlp", "MAPHead_0/MlpBlock_0"),
            (r"^map_head$", "MAPHead_0"),
            (r"^blocks_(\d+)", r"Transformer/encoderblock_\1"),
            (r"/norm1$", "/LayerNorm_0"),
            (r"/norm2$", f"/{norm2}"),
            (r"/attn/", f"/{attention}/"),
            (r"/mlp/", f"/{mlp}/"),
            (r"/fc1$", "/Dense_0"),
            (r"/fc2$", "/Dense_1"),
            (r"^norm$", "Transformer/encoder_norm"),
            (r"^patch_embed$", "embedding"),
            (r"^backbone/", ""),
        ):
            part = re.sub(ours, theirs, part)
        part = re.sub(r"stages_(\d+)/units_(\d+)", lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1}", part)
        if re.search(r"/(query|key|value)$", part):
            width = values.shape[-1]
            values = values.reshape(*values.shape[:-1], heads, width // heads)
        elif part.endswith("/out") and leaf == "kernel":
            values = values.reshape(heads, -1, values.shape[-1])
        name = {"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"}.get(path, f"{part}/{leaf}")
        arrays[name] = values
    return arrays


BIG_VISION = dict(attention="MultiHeadDotProductAttention_0", norm2="LayerNorm_1", mlp="MlpBlock_0")
POSITIONS = "Transformer/posembed_input/pos_embedding"


def prefixed(arrays, prefix):
    return {f"{prefix}{name}": values for name, values in arrays.items()}


def scanned(arrays, depth):
    """The blocks' arrays one behind the other along a leading axis, as big_vision's scan=True has them."""
    start = "Transformer/encoderblock_"
    rest = {name: values for name, values in arrays.items() if not name.startswith(start)}
    first = [name.removeprefix(f"{start}0/") for name in arrays if name.startswith(f"{start}0/")]
    return rest | {
        f"Transformer/encoderblock/{name}": np.stack([arrays[f"{start}{i}/{name}"] for i in range(depth)])
        for name in first
    }


def timm_reading_google(path, heads, size, patch, fields, units=None):
    """timm's model of the same shape with what timm's own reader takes from the file."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    sizes = dict(embed_dim=24, depth=2, num_heads=heads, mlp_ratio=2, num_classes=5, act_layer="gelu_tanh")
    theirs = randomize(VisionTransformer(size, patch, **sizes, **fields), seed=1)
    theirs.load_pretrained(path)
    return theirs.eval()


@pytest.mark.parametrize("layout", ["vision_transformer", "optimizer", "big_vision", "image tower", "scanned"])
def test_google_as_timm_reads_it(tmp_path, layout):
    heads, size, patch = 3, (16, 16), 4
    big_vision = layout in ("big_vision", "image tower", "scanned")
    fields = dict(pool="map" if big_vision else "token", posemb_cls=not big_vision)
    ours = ViT(5, patch, 24, 2, heads, 48, **fields)
    params = drawn(ours, size)
    arrays = google_arrays(params, heads, **BIG_VISION if big_vision else {})
    if big_vision:
        arrays["pos_embedding"] = arrays.pop(POSITIONS)
    if layout == "scanned":
        arrays = scanned(arrays, 2)
    prefix = {"optimizer": "opt/target/", "image tower": "params/img/", "vision_transformer": ""}.get(layout, "params/")
    beside = {
        "optimizer": {"opt/state/step": np.int32(7)},
        "image tower": {"params/t": np.zeros(1), "params/txt/a": np.ones(2)},
    }
    np.savez(tmp_path / "weights.npz", **prefixed(arrays, prefix), **beside.get(layout, {}))
    description, model, loaded_params, report = loaded(tmp_path / "weights.npz", vit_google.describe_official)
    assert description.image_size == size and not report.unexpected
    assert sorted(report.ignored) == sorted(beside.get(layout, {}))
    chex.assert_trees_all_equal(loaded_params, unflatten_dict(params, sep="/"))
    theirs_fields = dict(class_token=False, global_pool="map") if big_vision else {}
    theirs = timm_reading_google(tmp_path / "weights.npz", heads, size, patch, theirs_fields)
    images = images_of(size)
    assert_close(jax.jit(model.apply)({"params": loaded_params}, images), theirs_of(theirs, images))
    written_again = export_variables({"params": loaded_params}, description.names)
    chex.assert_trees_all_equal(written_again, prefixed(arrays, prefix))


def test_google_hybrid(tmp_path):
    """Group norms of old files are (1, 1, 1, C); pre_logits, and a table of positions for a rectangle."""
    fields = dict(patch_size=1, width=24, depth=1, num_heads=3, mlp_dim=48, stem=(2, 1), representation_size=7)
    ours = ViT(5, **fields)
    params = drawn(ours, (40, 24))
    arrays = google_arrays(params, 3)
    arrays = {name: x[None, None, None] if re.search(r"gn\w+/", name) else x for name, x in arrays.items()}
    assert {"block1/unit2/gn3/scale", "block2/unit1/conv_proj/kernel", "gn_root/bias"} < arrays.keys()
    np.savez(tmp_path / "weights.npz", **arrays)
    given = {"image_size": (40, 24)}
    _, model, loaded_params, report = loaded(tmp_path / "weights.npz", vit_google.describe_official, given)
    assert model == ViT(5, **fields, pool="token", cls_token=True) and not report.unexpected
    chex.assert_trees_all_equal(loaded_params, unflatten_dict(params, sep="/"))


def test_google_hybrid_as_timm_reads_it(tmp_path):
    ours = ViT(5, 1, 24, 1, 3, 48, stem=(2, 1))
    params = {name: values * (5 if "backbone" in name else 1) for name, values in drawn(ours, (32, 32)).items()}
    np.savez(tmp_path / "weights.npz", **google_arrays(params, 3))
    theirs = timm_hybrid((2, 1), 1, (32, 32), act_layer="gelu_tanh")
    theirs.load_pretrained(tmp_path / "weights.npz")
    _, model, loaded_params, _ = loaded(tmp_path / "weights.npz", vit_google.describe_official)
    images = images_of((32, 32))
    assert_close(jax.jit(model.apply)({"params": loaded_params}, images), theirs_of(theirs, images))


@pytest.mark.parametrize("name", ["Transformer/pos_embedding", "pos_embedding"])
def test_positions_of_big_vision_over_the_years(tmp_path, name):
    """With and without a place for the class token, and under either name."""
    has_place = name.startswith("Transformer")
    ours = ViT(0, 4, 24, 1, 3, 48, posemb_cls=has_place)
    params = drawn(ours, (12, 12))
    arrays = google_arrays(params, 3, **BIG_VISION)
    arrays[name] = arrays.pop(POSITIONS)
    np.savez(tmp_path / "weights.npz", **prefixed(arrays, "params/"))
    description, _, loaded_params, report = loaded(tmp_path / "weights.npz", vit_google.describe_official)
    assert description.image_size == (12, 12) and description.fields["posemb_cls"] == has_place
    assert not report.unexpected
    chex.assert_trees_all_equal(loaded_params, unflatten_dict(params, sep="/"))


def test_fixed_positions_of_big_vision(tmp_path):
    ours = ViT(5, 4, 24, 1, 3, 48, pool="gap", posemb="sincos2d_bv")
    params = drawn(ours, (12, 8))
    np.savez(tmp_path / "weights.npz", **google_arrays(params, 3, **BIG_VISION))
    with pytest.raises(ConfigError, match=r"no positions.*pass image_size"):
        loaded(tmp_path / "weights.npz", vit_google.describe_official)
    _, model, loaded_params, _ = loaded(tmp_path / "weights.npz", vit_google.describe_official, {"image_size": (12, 8)})
    images = images_of((12, 8))
    expected = jax.jit(ours.apply)({"params": unflatten_dict(params, sep="/")}, images)
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": loaded_params}, images), expected)
