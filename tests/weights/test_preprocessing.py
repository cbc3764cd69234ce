"""`vj.preprocessing` against what transformers, timm and open_clip make of the same picture with the same folder."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax.data.images import BrokenImage
from vision_jax.errors import ConfigError
from vision_jax.models import CLIP, ViT
from vision_jax.models.inference import variable_shapes

PICTURES = [(60, 90), (61, 83), (83, 62), (301, 40)]  # (height, width): margins of crops with half pixels


def ones(model, size):
    """Variables, as good as any here."""
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variable_shapes(model, size))


def picture(height, width):
    """Smooth, with edges in it."""
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin(x / 9) * np.cos(y / 7), 255 * (x > y), (3 * x + 2 * y) % 256]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a ViT for images of 28 x 28 in transformers' format, without a preprocessor_config.json."""
    path, model = tmp_path_factory.mktemp("vit"), ViT(3, 7, 8, 1, 1, 8)
    vj.save_pretrained(path, model, ones(model, (28, 28)))
    return path


def differ_by_a_grey_level(ours, theirs, std):
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1.01 / 255 / min(std)
    assert np.ptp(theirs) > 1


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize(
    "config",
    [
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 28, "width": 28}},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 28, "resample": 3},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 33}, "crop_size": 28},
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": 28,
            "crop_size": 28,
            "do_center_crop": True,
            "resample": 2,
        },
    ],
    ids=["squash", "old squash", "crop", "old crop"],
)
def test_transformers(config, size, folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], **config}
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(picture(*size), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    differ_by_a_grey_level(vj.preprocessing(tmp_path)(picture(*size)), theirs, config["image_std"])


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize(
    ("resize", "image_size"), [("crop", (28, 28)), ("squash", (28, 28)), ("squash", (21, 35))], ids=str
)
def test_transformers_with_what_we_write(resize, image_size, size, tmp_path):
    transformers = pytest.importorskip("transformers")
    how = vj.Preprocessing(
        image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic", resize, 0.8 if resize == "crop" else 1.0
    )
    model = ViT(3, 7, 8, 1, 1, 8)
    vj.save_pretrained(tmp_path, model, ones(model, image_size), preprocessing=how)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(picture(*size), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    differ_by_a_grey_level(vj.preprocessing(tmp_path)(picture(*size)), theirs, how.std)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize(
    ("mode", "crop", "image_size"),
    [("center", 0.9, (28, 28)), ("center", 0.875, (21, 35)), ("squash", 1.0, (28, 28)), ("squash", 1.0, (35, 21))],
)
def test_timm(mode, crop, image_size, size, tmp_path):
    timm = pytest.importorskip("timm")
    resize = "crop" if mode == "center" else "squash"
    how = vj.Preprocessing(image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", resize, crop)
    model = ViT(3, 7, 8, 1, 1, 8)
    vj.save_pretrained(tmp_path, model, ones(model, image_size), "timm", preprocessing=how)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    config = timm.data.resolve_data_config({}, model=theirs)
    assert (config["crop_mode"], config["crop_pct"], config["interpolation"]) == (mode, crop, "bilinear")
    pixels = timm.data.create_transform(**config)(picture(*size)).numpy().transpose(1, 2, 0)
    ours = vj.preprocessing(tmp_path)
    assert ours == how
    differ_by_a_grey_level(ours(picture(*size)), pixels, how.std)


@pytest.mark.parametrize("crop_mode", ["border", "squash"])
def test_what_timm_does_and_we_do_not_is_no_preprocessing(crop_mode, tmp_path):
    """Borders, and the middle of a squashed picture."""
    model = ViT(3, 7, 8, 1, 1, 8)
    how = vj.Preprocessing((28, 28), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    vj.save_pretrained(tmp_path, model, ones(model, (28, 28)), "timm", preprocessing=how)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["crop_mode"] = crop_mode
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"does not say how pictures are prepared; vj.Preprocessing\(image_size"):
        vj.preprocessing(tmp_path)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize(("mode", "image_size"), [("shortest", (28, 28)), ("shortest", (21, 35)), ("squash", (28, 28))])
def test_open_clip(mode, image_size, size, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    tower = {
        "patch_size": 7,
        "width": 8,
        "depth": 1,
        "num_heads": 1,
        "mlp_dim": 8,
        "pre_norm": True,
        "patch_bias": False,
    }
    tower |= {"act": "quick_gelu", "norm_eps": 1e-5}
    model = CLIP(
        "vit", tower, embed_dim=4, text_width=8, text_depth=1, text_num_heads=1, vocab_size=9, context_length=5
    )
    resize = "crop" if mode == "shortest" else "squash"
    how = vj.Preprocessing(image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic", resize, 1.0)
    vj.save_pretrained(tmp_path, model, ones(model, image_size), "open_clip", preprocessing=how)
    _, theirs = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    ours = vj.preprocessing(tmp_path)
    assert ours == how
    pixels = theirs(picture(*size)).numpy().transpose(1, 2, 0)
    differ_by_a_grey_level(ours(picture(*size)), pixels, how.std)


def test_another_image_size_keeps_the_rest(folder):
    how = vj.preprocessing(folder, image_size=(14, 21))
    assert how == vj.Preprocessing((14, 21), (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", 1.0, "down", True)
    assert how(picture(40, 50)).shape == (14, 21, 3)


def test_every_kind_of_picture(folder, tmp_path):
    how, source = vj.preprocessing(folder), picture(37, 64)
    source.save(tmp_path / "picture.png")
    encoded, array = (tmp_path / "picture.png").read_bytes(), np.asarray(source)
    expected = (how.pixels(array).astype(np.float64) / 255 - 0.5) / 0.5
    for kind in (tmp_path / "picture.png", str(tmp_path / "picture.png"), encoded, source, array):
        np.testing.assert_allclose(how(kind), expected, atol=1e-6)
    grey = source.convert("L")
    for kind in (grey, np.asarray(grey), np.asarray(grey)[..., None]):
        np.testing.assert_allclose(how(kind), how(grey.convert("RGB")))
    with pytest.raises(BrokenImage):
        how(encoded[:100])
    deep = io.BytesIO()
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256).save(deep, "PNG")
    for kind in (deep.getvalue(), Image.open(deep)):  # high bytes, not clipped at 255
        np.testing.assert_allclose(how(kind), how(grey))
