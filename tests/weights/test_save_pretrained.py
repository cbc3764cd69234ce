"""`vj.save_pretrained` writes what the original libraries load as their own, and `vj.load_pretrained` takes back."""

import json

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.weights.sources import open_weights

torch = pytest.importorskip("torch")
from originals import assert_close, images_of, run  # noqa: E402
from published import (  # noqa: E402
    CLASSES,
    ORIGINALS,
    encode,
    load_with_open_clip,
    load_with_transformers,
    run_ours,
    run_transformers,
)

HOW = vj.Preprocessing((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), "bilinear", "squash", 1.0, "down", True)


def run_saved(folder, format, inputs):
    """What the library of that format makes of a folder."""
    if format == "hf":
        return run_transformers(load_with_transformers(folder), inputs)
    if format == "timm":
        timm = pytest.importorskip("timm")
        return (run(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), inputs[0]),)
    if format == "openai":
        return tuple(run(load_with_open_clip(folder / "model.pt"), *inputs)[:3])
    open_clip = pytest.importorskip("open_clip")
    return tuple(run(open_clip.create_model(f"local-dir:{folder}").eval(), *inputs)[:3])


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("transformers ViT", ("hf", "timm")),
        ("transformers ViTModel", ("hf",)),
        ("timm ViT", ("timm",)),
        ("transformers Swin", ("hf", "timm")),
        ("transformers Swinv2", ("hf", "timm")),
        ("timm Swin", ("hf", "timm")),
        ("transformers ViTMAE", ("hf",)),
        ("transformers CLIP", ("hf", "open_clip")),
        ("OpenAI ViT", ("hf", "open_clip", "openai")),
        ("OpenAI ResNet", ("openai",)),
    ],
)
def test_saved_loaded_and_run(name, formats, tmp_path):
    original = ORIGINALS[name](tmp_path)
    model, variables = vj.load_pretrained(original.path, **original.arguments)
    size = original.inputs[0].shape[1:3]
    for format in formats:
        vj.save_pretrained(tmp_path / format, model, variables, format, image_size=size)
        for saved, expected in zip(
            run_saved(tmp_path / format, format, original.inputs), original.expected, strict=True
        ):
            assert_close(saved, expected)
        path = tmp_path / format / ("model.pt" if format == "openai" else "")
        chex.assert_trees_all_equal(vj.load_pretrained(path)[1], variables)


def test_the_encoder_of_an_mae_goes_to_timm(tmp_path):
    original = ORIGINALS["facebookresearch MAE"](tmp_path)
    model, variables = vj.load_pretrained(original.path, **original.arguments)
    with pytest.raises(ConfigError, match="pass image_size"):
        vj.save_pretrained(tmp_path / "timm", model, variables, "timm")
    vj.save_pretrained(tmp_path / "timm", model, variables, "timm", image_size=24)
    images = original.inputs[0]
    expected = encode(model, variables, images)
    assert_close(run_saved(tmp_path / "timm", "timm", (images,))[0], expected)
    assert_close(run_ours(*vj.load_pretrained(tmp_path / "timm"), (images,))[0], expected)


@pytest.mark.parametrize("name", ["OpenAI ViT", "open_clip"])
def test_the_image_tower_of_a_clip_goes_to_timm(name, tmp_path):
    original = ORIGINALS[name](tmp_path)
    model, variables = vj.load_pretrained(original.path)
    vj.save_pretrained(tmp_path / "timm", model, variables, "timm")
    expected = jax.jit(lambda *inputs: model.apply(*inputs, method="encode_image"))(variables, original.inputs[0])
    assert_close(run_saved(tmp_path / "timm", "timm", original.inputs)[0], expected)
    assert_close(run_ours(*vj.load_pretrained(tmp_path / "timm"), original.inputs[:1])[0], expected)


@pytest.mark.parametrize(("name", "format"), [("transformers ViT", "timm"), ("timm ViT", "timm"), ("OpenAI ViT", "hf")])
def test_scanned_layers_are_saved_like_others(name, format, tmp_path):
    original = ORIGINALS[name](tmp_path)
    for scan in (False, True):
        model, variables = vj.load_pretrained(original.path, scan=scan)
        vj.save_pretrained(tmp_path / str(scan), model, variables, format, image_size=original.inputs[0].shape[1:3])
    files = [(tmp_path / str(scan) / "model.safetensors").read_bytes() for scan in (False, True)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("name", "format"), [("transformers ViT", "hf"), ("transformers Swin", "hf"), ("transformers Swin", "timm")]
)
def test_names_of_classes_and_preprocessing_survive(name, format, tmp_path):
    original = ORIGINALS[name](tmp_path / "theirs")
    source = open_weights(original.path)
    assert source.class_names == CLASSES
    model, variables = vj.load_pretrained(original.path)
    how = (
        HOW if format == "hf" else vj.Preprocessing(**vars(HOW) | {"crop_rounding": "even", "exif_orientation": False})
    )
    vj.save_pretrained(tmp_path, model, variables, format, preprocessing=how, class_names=source.class_names)
    assert open_weights(tmp_path).class_names == CLASSES
    assert vj.preprocessing(tmp_path) == how
    if format == "hf":
        assert load_with_transformers(tmp_path).config.label2id["dog"] == 3
    else:
        timm = pytest.importorskip("timm")
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).pretrained_cfg
        assert tuple(theirs["label_names"]) == CLASSES and theirs["mean"] == [0.4, 0.5, 0.6]


def test_preprocessing_survives_in_open_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    original = ORIGINALS["open_clip"](tmp_path)
    model, variables = vj.load_pretrained(original.path)
    how = vj.preprocessing(original.path)
    assert how == vj.Preprocessing((20, 20), (0.5, 0.4, 0.3), (0.3, 0.2, 0.1), "bilinear", "squash", 1.0)
    vj.save_pretrained(tmp_path / "ours", model, variables, "open_clip", preprocessing=how)
    assert vj.preprocessing(tmp_path / "ours") == how
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'ours'}").visual.preprocess_cfg
    assert (theirs["mean"], theirs["interpolation"], theirs["resize_mode"]) == ([0.5, 0.4, 0.3], "bilinear", "squash")
    cropped = vj.Preprocessing(**vars(how) | {"eval_resize": "crop", "eval_crop": 0.875})
    with pytest.raises(ConfigError, match=r"whole short side.*eval_crop=0.875"):
        vj.save_pretrained(tmp_path / "cropped", model, variables, "open_clip", preprocessing=cropped)


def test_what_cannot_be_saved(tmp_path):
    vit = vj.load_pretrained(ORIGINALS["transformers ViT"](tmp_path / "vit").path)
    swin = vj.load_pretrained(ORIGINALS["timm Swin"](tmp_path / "swin").path)
    clip = vj.load_pretrained(ORIGINALS["OpenAI ViT"](tmp_path).path)
    (tmp_path / "file").write_text("")
    for (model, variables), arguments, words in (
        (vit, {"format": "tim"}, "no format 'tim' .*did you mean 'timm'"),
        (vit, {"format": "keras"}, r"there are hf \(transformers\), timm, open_clip, openai"),
        (vit, {"format": "open_clip"}, "format 'open_clip' has no ViT, only CLIP"),
        (swin, {"format": "openai"}, "format 'openai' has no Swin, only CLIP"),
        (swin, {"format": "hf"}, "does not show its image size|parameters do not show.*pass image_size"),
        (vit, {"class_names": ("ant", "bee")}, "2 class_names do not name the model's 5 outputs"),
        (swin, {"format": "timm", "image_size": 32, "class_names": ("ant",)}, "1 class_names.*5 outputs"),
        (clip, {"class_names": ("ant",)}, "class_names"),
        (clip, {"format": "openai", "class_names": ("ant",)}, "no place for class_names"),
        (vit, {"image_size": 64}, r"'params/pos_embed' is \[1, 17, 24\], but .* 64x64 has \[1, 65, 24\]"),
        (vit, {"image_size": 30}, "30"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            vj.save_pretrained(tmp_path / "no", model, variables, **arguments)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match=r"cannot write '.*file'"):
        vj.save_pretrained(tmp_path / "file", *vit)


def test_a_run_s_squashed_pictures_are_whole_for_timm_too(tmp_path):
    """data.eval_crop says nothing where pictures are squashed."""
    vit = vj.load_pretrained(ORIGINALS["transformers ViT"](tmp_path / "vit").path)
    how = vj.Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash", 0.875)
    vj.save_pretrained(tmp_path / "timm", *vit, "timm", preprocessing=how)
    assert json.loads((tmp_path / "timm/config.json").read_text())["pretrained_cfg"]["crop_pct"] == 1.0
    picture = np.uint8(255 * (images_of((50, 70), 1)[0] > 0))
    np.testing.assert_array_equal(vj.preprocessing(tmp_path / "timm")(picture), how(picture))
