"""`vj.load_pretrained` of what other libraries write: outputs are the original's, whatever the format."""

import logging

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models.stacking import unstack_blocks
from vision_jax.ops.patches import as_pair

torch = pytest.importorskip("torch")
from originals import assert_close, images_of, redrawn, run  # noqa: E402
from published import ORIGINALS, bare_vit_of_timm, encode, load_with_transformers, run_ours, run_transformers  # noqa: E402
from test_clip_weights import texts  # noqa: E402
from test_swin_weights import SIZES  # noqa: E402


def told(caplog):
    """What our own log says."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("vision_jax")]


@pytest.mark.parametrize("name", ORIGINALS)
def test_outputs_are_the_original_s(name, tmp_path, caplog):
    original = ORIGINALS[name](tmp_path)
    model, variables = vj.load_pretrained(original.path, **original.arguments)
    assert not told(caplog)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))
    for ours, theirs in zip(run_ours(model, variables, original.inputs), original.expected, strict=True):
        assert_close(ours, theirs)


def original_of(name, folder):
    """(the path, its original loaded by transformers)"""
    return ORIGINALS[name](folder).path, load_with_transformers(folder)


@pytest.mark.parametrize("size", [(24, 40), (16, 16)])
@pytest.mark.parametrize("name", ["transformers ViT", "transformers CLIP"])
def test_other_image_sizes_of_transformers(name, size, tmp_path):
    path, theirs = original_of(name, tmp_path)
    size = size if name == "transformers ViT" else tuple(side * 5 // 8 for side in size)  # of patches of 5 pixels
    inputs = (images_of(size), *([texts()] if name == "transformers CLIP" else []))
    model, variables = vj.load_pretrained(path, image_size=size)
    expected = run_transformers(theirs, inputs, interpolate_pos_encoding=True)
    for ours, theirs in zip(run_ours(model, variables, inputs), expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(28, 36), (8, 12)])
def test_other_image_sizes_of_timm(size, tmp_path):
    """At creation from pretrained weights, and by set_input_size afterwards."""
    timm = pytest.importorskip("timm")
    original = ORIGINALS["timm ViT"](tmp_path)
    theirs = [timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=size)]
    theirs.append(timm.create_model(f"local-dir:{tmp_path}", pretrained=True))
    theirs[1].set_input_size(size)
    images = images_of(size)
    model, variables = vj.load_pretrained(original.path, image_size=size)
    for each in theirs:
        assert_close(run_ours(model, variables, (images,))[0], run(each.eval(), images))


@pytest.mark.parametrize("size", [30, (15, 25)])
def test_other_image_sizes_of_open_clip(size, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    original = ORIGINALS["open_clip"](tmp_path)
    theirs = open_clip.create_model(f"local-dir:{original.path}", force_image_size=size).eval()
    inputs = images_of((size, size) if isinstance(size, int) else size), original.inputs[1]
    model, variables = vj.load_pretrained(original.path, image_size=size)
    for ours, their in zip(run_ours(model, variables, inputs), run(theirs, *inputs), strict=True):
        assert_close(ours, their)


def test_other_image_sizes_of_mae(tmp_path):
    """facebookresearch's interpolate_pos_embed: bicubic, not antialiased; with a decoder, the table is computed anew."""
    original = ORIGINALS["facebookresearch MAE"](tmp_path)
    known = {"num_heads": 3, "image_size": 16}
    model, variables = vj.load_pretrained(original.path, name="vit", **known)
    table = torch.load(original.path, weights_only=False)["model"]["pos_embed"]
    grid = table[:, 1:].reshape(1, 6, 6, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False)
    expected = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 16, -1)], dim=1)
    assert_close(variables["params"]["pos_embed"], expected)
    encoder, decoder = vj.load_pretrained(original.path, decoder_num_heads=5, **known)
    shared = {name: tree for name, tree in variables["params"].items() if name != "pos_embed"}
    chex.assert_trees_all_equal(shared, {k: x for k, x in decoder["params"].items() if k != "decoder"})
    assert encode(encoder, decoder, images_of((16, 16))).shape == (2, 24)
    assert type(model).__name__ == "ViT" and np.isfinite(run_ours(model, variables, (images_of((16, 16)),))[0]).all()


def test_another_window_of_swin(tmp_path, caplog):
    """V1's tables become those of the new window as microsoft's loader makes them."""
    original = ORIGINALS["microsoft Swin"](tmp_path)
    caplog.set_level(logging.INFO)
    model, variables = vj.load_pretrained(original.path, window=5)
    key = "relative_position_bias_table"
    table = torch.load(original.path, weights_only=True)["model"][f"layers.1.blocks.0.attn.{key}"]
    table = table.T.reshape(1, -1, 5, 5)
    expected = torch.nn.functional.interpolate(table, size=(9, 9), mode="bicubic")[0].permute(1, 2, 0)
    ours = variables["params"]["stages_1"]["blocks_0"]["attn"][key]
    assert model.window == 5
    assert_close(ours, expected)
    (line,) = told(caplog)
    assert "5 resized" in line and f"stages_1/blocks_0/attn/{key}" in line


@pytest.mark.parametrize("wish", [{"image_size": (64, 48), "window": 8}, {"image_size": 96}])
def test_offsets_of_swin_v2_stay_those_that_it_learned(wish, tmp_path):
    """In windows that grow, by wish or with the maps; transformers says so by pretrained_window_sizes."""
    transformers = pytest.importorskip("transformers")
    sizes = SIZES | {"image_size": 32, "window_size": 6 if "window" in wish else 12}
    config = transformers.Swinv2Config(**sizes, num_labels=5)
    theirs = redrawn(transformers.Swinv2ForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    learned = (6, 6) if "window" in wish else (12, 8)
    model, variables = vj.load_pretrained(tmp_path, **wish)
    assert model.pretrained_window == learned
    size = as_pair(wish.get("image_size", 32))
    config.window_size = wish.get("window", 12)
    config.image_size, config.pretrained_window_sizes = size, list(learned)
    wider = transformers.Swinv2ForImageClassification(config)
    buffers = ("relative_coords_table", "relative_position_index")
    state = {name: x for name, x in theirs.state_dict().items() if not name.endswith(buffers)}
    report = wider.load_state_dict(state, strict=False)
    assert not report.unexpected_keys and all(name.endswith(buffers) for name in report.missing_keys)
    images = images_of(size)
    assert_close(run_ours(model, variables, (images,))[0], run(wider.eval(), images).logits)


def test_other_classes_begin_with_a_head_of_zeros(tmp_path, caplog):
    original = ORIGINALS["transformers ViT"](tmp_path)
    model, variables = vj.load_pretrained(original.path, num_classes=7)
    assert not np.any(run_ours(model, variables, original.inputs)[0])
    (line,) = told(caplog)
    assert "2 newly initialised: head/bias, head/kernel" in line and str(tmp_path) in line
    features, without = vj.load_pretrained(original.path, num_classes=0)
    assert "head" not in without["params"] and "2 not used: head/" in told(caplog)[1]
    expected = encode(*vj.load_pretrained(original.path), original.inputs[0])
    np.testing.assert_array_equal(encode(model, variables, original.inputs[0]), expected)
    np.testing.assert_array_equal(run_ours(features, without, original.inputs)[0], expected)


def test_the_pyramid_of_swin(tmp_path, caplog):
    original = ORIGINALS["transformers Swin"](tmp_path)
    model, variables = vj.load_pretrained(original.path, features_only=True)
    new = {name: tree for name, tree in variables["params"].items() if name.startswith("feature_norms")}
    chex.assert_trees_all_equal(
        new, {k: {"scale": np.ones(w), "bias": np.zeros(w)} for k, w in zip(new, (12, 24), strict=True)}
    )
    assert sorted(line.partition(": ")[2].partition(":")[0] for line in told(caplog)) == [
        "4 newly initialised",
        "4 not used",
    ]
    both = jax.jit(lambda *inputs: (model.apply(*inputs), model.apply(*inputs, method="features")))
    for normed, x in zip(*both(variables, original.inputs[0]), strict=True):
        x = np.asarray(x, np.float64)
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(normed, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["transformers ViTMAE", "transformers CLIP", "timm Swin"])
def test_scanned_layers(name, tmp_path):
    original = ORIGINALS[name](tmp_path)
    model, variables = vj.load_pretrained(original.path, scan=True)
    assert model.scan
    _, unrolled = vj.load_pretrained(original.path)
    chex.assert_trees_all_equal(unstack_blocks(variables["params"]), unrolled["params"])
    for ours, theirs in zip(run_ours(model, variables, original.inputs), original.expected, strict=True):
        assert_close(ours, theirs)


def test_what_a_file_leaves_open_is_what_is_wished_for(tmp_path):
    """Its image size and window, unless `file` says that they were others; an image tower's fields are merged."""
    original = ORIGINALS["timm Swin V2, bare"](tmp_path)
    with pytest.raises(ConfigError, match="pass window"):
        vj.load_pretrained(original.path)
    wider, _ = vj.load_pretrained(original.path, window=8, image_size=64, file={"window": 4, "image_size": 32})
    assert (wider.window, wider.pretrained_window) == (8, (4, 4))
    oblong = bare_vit_of_timm(tmp_path, size=(8, 20))
    with pytest.raises(ConfigError, match=r"bare.safetensors': the file's 11 positions.*pass image_size"):
        vj.load_pretrained(oblong.path)
    model, variables = vj.load_pretrained(oblong.path, image_size=(8, 20))
    assert_close(run_ours(model, variables, oblong.inputs)[0], oblong.expected[0])
    _, wider = vj.load_pretrained(oblong.path, image_size=(16, 40), file={"image_size": (8, 20)})
    assert wider["params"]["pos_embed"].shape == (1, 41, 64)


def test_fields_of_an_image_tower_are_merged(tmp_path):
    """Other heads than a file of OpenAI's shows: the rest of the tower stays as the file has it."""
    original = ORIGINALS["OpenAI ViT"](tmp_path)
    model, _ = vj.load_pretrained(original.path, image={"num_heads": 4}, text_num_heads=2, remat="full")
    tower = model.image_module(parent=None)
    assert (tower.num_heads, tower.width, tower.act, model.text_num_heads) == (4, 128, "quick_gelu", 2)
    assert tower.remat == model.remat == "full"


@pytest.mark.parametrize("name", ["transformers ViT", "timm Swin"])
def test_a_model_of_another_name_is_refused(name, tmp_path):
    original = ORIGINALS[name](tmp_path)
    family = "vit" if "ViT" in name else "swin"
    vj.load_pretrained(original.path, name=family)
    with pytest.raises(ConfigError, match=f"holds a '{family}', and no 'clip'"):
        vj.load_pretrained(original.path, name="clip")


def test_regularisation_can_be_asked_for(tmp_path):
    original = ORIGINALS["timm ViT"](tmp_path)
    model, variables = vj.load_pretrained(original.path, drop_path_rate=0.5, dropout_rate=0.1)
    assert (model.drop_path_rate, model.dropout_rate) == (0.5, 0.1)
    assert_close(run_ours(model, variables, original.inputs)[0], original.expected[0])
