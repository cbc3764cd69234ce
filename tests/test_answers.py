"""What `predict` shows is what a source's model was trained to say: activations, names, templates, upright pictures, sheets."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax import predict
from vision_jax.command_line import load_config
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.models import CLIP
from vision_jax.models.inference import variable_shapes
from vision_jax.training.loop import train

RUN = pathlib.Path(__file__).parent / "golden" / "work_folder"
VIT = dict(num_classes=3, patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16, act="gelu")
TOWER = dict(patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=20, pre_norm=True, patch_bias=False)
TEXT = dict(embed_dim=12, text_width=16, text_depth=1, text_num_heads=2, vocab_size=259, context_length=40)
TRANSFORM = vj.Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash", 1.0)


def drawn(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape) * 0.5), variable_shapes(model, (16, 16)))


def picture(path, orientation=1, size=(40, 24)):
    """A JPEG that is green on the left and red at the top, before it is turned."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 1] = pixels[: size[1] // 2, :, 0] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)
    return path


def run(monkeypatch, capsys, *argv):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, argv)])
    predict.main()
    return capsys.readouterr()


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
    """A run of CLIP on digits, which learned their figures in two templates."""
    c = load_config("configs/clip_digits.py")
    c.model = dict(image=dict(width=16, depth=1, num_heads=2, mlp_dim=16), text_width=16, text_depth=1)
    c.batch_size, c.duration, c.schedule.warmup = 32, "2 steps", "0 steps"
    c.data.templates = ("the digit {}", "{}!")
    c.evals.zero_shot.every = ""
    c.log = dict(compile_cache="", tensorboard=False)
    folder = tmp_path_factory.mktemp("clip") / "run"
    train(c, folder)
    return folder


def test_a_clip_s_run_chooses_among_its_own_classes(clip_run, tmp_path, monkeypatch, capsys):
    """By its own templates and tokenizer, the figures that it learned named in words."""
    file = picture(tmp_path / "a.jpg")
    model, variables = vj.load_pretrained(clip_run)
    image = vj.preprocessing(clip_run)(file)[None]

    def expected(figures):
        texts = [template.format(figure) for figure in figures for template in ("the digit {}", "{}!")]
        image_vector, vectors, scale = model.apply(variables, image, open_tokenizer("bytes", 32)(texts))
        means = vectors.reshape(len(figures), 2, -1).mean(1)
        logits = scale * image_vector @ (means / np.linalg.norm(means, axis=-1, keepdims=True)).T
        return np.asarray(jax.nn.softmax(logits))[0]

    found = json.loads(run(monkeypatch, capsys, f"--model={clip_run}", file, "--json", "--top=10").out)["predictions"]
    assert {entry["index"]: entry["label"] for entry in found}[7] == "seven" and len(found) == 10
    by_index = [entry["probability"] for entry in sorted(found, key=lambda entry: entry["index"])]
    np.testing.assert_allclose(by_index, expected("0123456789"), atol=1e-5)
    (pairs,) = vj.open_run(clip_run).predict(file, labels=["Seven", "2", "horse"])
    assert "did not learn the class 'horse'" in capsys.readouterr().err
    wanted = dict(zip(["Seven", "2", "horse"], expected(["7", "2", "horse"]), strict=True))
    assert dict(pairs) == pytest.approx(wanted, abs=1e-5)


def test_a_siglip_tells_each_label_on_its_own(tmp_path, monkeypatch, capsys):
    model = CLIP("vit", TOWER | {"act": "gelu"}, **TEXT, text_act="gelu", logit_bias_init=-1.0)
    variables, file = drawn(model), picture(tmp_path / "a.jpg")
    vj.save_pretrained(tmp_path / "siglip", model, variables, "open_clip", preprocessing=TRANSFORM)
    argv = [f"--model={tmp_path / 'siglip'}", file, "--labels=ape,bee", "--tokenizer=bytes", "--json"]
    found = json.loads(run(monkeypatch, capsys, *argv).out)["predictions"]
    tokens = open_tokenizer("bytes", 40)(["a photo of a ape.", "a photo of a bee."])
    image, text, scale = model.apply(variables, TRANSFORM(file)[None], tokens)
    logits = np.asarray(scale * image @ text.T)[0] + variables["params"]["logit_bias"]
    by_index = [entry["probability"] for entry in sorted(found, key=lambda entry: entry["index"])]
    np.testing.assert_allclose(by_index, 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "classes", "activation"),
    [
        ("multi_label_classification", 3, jax.nn.sigmoid),
        ("regression", 3, jax.nn.identity),
        ("single_label_classification", 3, jax.nn.softmax),
        (None, 1, jax.nn.sigmoid),
    ],
)
def test_what_transformers_says_of_a_head(problem, classes, activation, tmp_path):
    model, file = vj.create_model("vit", **VIT | {"num_classes": classes}), picture(tmp_path / "a.jpg")
    variables, folder = drawn(model), tmp_path / "hf"
    vj.save_pretrained(folder, model, variables, "hf", preprocessing=TRANSFORM)
    settings = json.loads((folder / "config.json").read_text()) | {"problem_type": problem}
    (folder / "config.json").write_text(json.dumps(settings))
    (found,) = vj.predict(folder, file, exif=False)
    expected = np.asarray(activation(model.apply(variables, TRANSFORM(file)[None])))[0]
    assert sorted(value for _, value in found) == pytest.approx(sorted(expected.tolist()), abs=1e-5)


def test_a_run_of_binary_decisions_shows_them(tmp_path, monkeypatch, capsys):
    """Of one right class each, so that five are shown of ten."""
    record = json.loads((RUN / "config.json").read_text())
    record["loss"]["name"] = "sigmoid"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    (tmp_path / "run" / "checkpoints").symlink_to(RUN / "checkpoints")
    file = picture(tmp_path / "a.jpg")
    found = json.loads(run(monkeypatch, capsys, f"--model={tmp_path / 'run'}", file, "--json").out)["predictions"]
    model, variables = vj.load_pretrained(tmp_path / "run")
    expected = np.sort(jax.nn.sigmoid(model.apply(variables, vj.preprocessing(tmp_path / "run")(file)[None])[0]))[::-1]
    assert [entry["probability"] for entry in found] == pytest.approx(expected[:5].tolist(), abs=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_transformers_turns_them(orientation, tmp_path):
    """Where the source is of transformers; timm's, open_clip's and a run's lie as they are stored."""
    from PIL import ImageOps

    file = picture(tmp_path / "a.jpg", orientation)
    upright = ImageOps.exif_transpose(Image.open(file))
    turned = vj.Preprocessing(**vars(TRANSFORM) | {"exif_orientation": True})
    np.testing.assert_array_equal(turned.pixels(file), turned.pixels(upright))
    np.testing.assert_array_equal(turned.pixels(Image.open(file)), turned.pixels(upright))
    stored = Image.open(file).convert("RGB")
    np.testing.assert_array_equal(TRANSFORM.pixels(file), TRANSFORM.pixels(stored))


def test_each_source_turns_pictures_as_its_project_does(tmp_path):
    model = vj.create_model("vit", **VIT)
    for format in ("hf", "timm"):
        vj.save_pretrained(tmp_path / format, model, drawn(model), format, preprocessing=TRANSFORM)
    turns = [vj.preprocessing(source).exif_orientation for source in (tmp_path / "hf", tmp_path / "timm", RUN)]
    assert turns == [True, False, False]
    file, other = picture(tmp_path / "a.jpg", 6), picture(tmp_path / "b.jpg", 1)
    by_default, turned, stored = (vj.predict(tmp_path / "hf", file, exif=exif)[0] for exif in (None, True, False))
    assert by_default == turned != stored == vj.predict(tmp_path / "hf", other)[0]


def test_what_comes_with_broken_exif_is_upright(tmp_path):
    file = picture(tmp_path / "a.jpg", 6)
    damaged = file.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    turned = vj.Preprocessing(**vars(TRANSFORM) | {"exif_orientation": True})
    np.testing.assert_array_equal(turned.pixels(damaged), TRANSFORM.pixels(damaged))


def test_sheets_of_the_pictures_and_what_is_seen_in_them(tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures").mkdir()
    for i in range(22):
        picture(tmp_path / "pictures" / f"{i:02d} a long name that does not fit below a picture.jpg", size=(8 + i, 300))
    out = run(monkeypatch, capsys, f"--model={RUN}", tmp_path / "pictures", f"--out={tmp_path / 'seen'}").out
    sheets = [tmp_path / "seen" / f"sheet_{i}.png" for i in (1, 2)]
    assert out.splitlines()[-2:] == [f"{sheets[0]}: 20 pictures", f"{sheets[1]}: 2 pictures"]
    sizes = [Image.open(sheet).size for sheet in sheets]
    assert sizes[0][0] > sizes[1][0] and sizes[0][1] > 4 * sizes[1][1]
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, f"--model={RUN}", tmp_path / "pictures", f"--out={sheets[0]}")
    assert "--out" in capsys.readouterr().err
