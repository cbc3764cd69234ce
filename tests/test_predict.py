"""vision_jax.predict as users run it, on small models that are saved as transformers and open_clip keep them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax import answers, predict
from vision_jax.config import base_config
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.models import CLIP
from vision_jax.models.inference import variable_shapes
from vision_jax.training.loop import train

REPO = pathlib.Path(__file__).parents[1]
NAMES = ("ape", "bee", "cat", "dog", "elk")
VIT = dict(num_classes=5, patch_size=8, width=24, depth=1, num_heads=3, mlp_dim=32, act="gelu")
TOWER = dict(
    patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=20, pre_norm=True, patch_bias=False, act="quick_gelu"
)
TEXT = dict(embed_dim=12, text_width=16, text_depth=1, text_num_heads=2, vocab_size=259, context_length=40)
TRANSFORM = vj.Preprocessing((16, 24), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", "squash", 1.0)


def drawn(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape) * 0.5), variable_shapes(model, (16, 24)))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> (folder, model, variables)."""
    made = {
        "vit": vj.create_model("vit", **VIT),
        "features": vj.create_model("vit", **VIT | {"num_classes": 0}),
        "clip": CLIP("vit", TOWER, **TEXT),
    }
    found = {}
    for name, model in made.items():
        folder, variables = tmp_path_factory.mktemp(name), drawn(model)
        names = NAMES if name == "vit" else ()
        format = "open_clip" if name == "clip" else "hf"
        vj.save_pretrained(folder, model, variables, format, preprocessing=TRANSFORM, class_names=names)
        found[name] = folder, model, variables
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three pictures, one of them further below, a damaged one and a text."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (folder / "z").mkdir()
    for name in ("a.png", "b.jpg", "z/c.PNG"):
        Image.fromarray(rng.integers(0, 256, (rng.integers(20, 50), 30, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:500])
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, argv)])
    predict.main()


def images_of(folder):
    """As Pillow and numpy prepare them, in the order of their names."""
    found = [Image.open(folder / name).convert("RGB") for name in ("a.png", "b.jpg", "z/c.PNG")]
    pixels = np.stack([np.asarray(image.resize((24, 16), Image.Resampling.BILINEAR)) for image in found])
    return ((pixels / 255 - TRANSFORM.mean) / TRANSFORM.std).astype(np.float32)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_classes(models, pictures, monkeypatch, capsys, batch_size):
    folder, model, variables = models["vit"]
    run(monkeypatch, f"--model={folder}", pictures, "--json", f"--batch_size={batch_size}")
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["file"] for each in found] == [str(pictures / name) for name in ("a.png", "b.jpg", "z/c.PNG")]
    assert "broken.jpg" in err and "notes" not in err and len(err.strip().splitlines()) == 1
    expected = softmax(np.asarray(model.apply(variables, images_of(pictures))))
    for each, row in zip(found, expected, strict=True):
        rows = each["predictions"]
        assert [entry["index"] for entry in rows] == np.argsort(-row).tolist()
        assert [entry["label"] for entry in rows] == [NAMES[i] for i in np.argsort(-row)]
        np.testing.assert_allclose([entry["probability"] for entry in rows], np.sort(row)[::-1], atol=1e-5)


def run_of(tmp_path, task: str, text: str, **loss):
    """A work folder of a run of a few steps on pictures of a table."""
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "table.csv").write_text(text)
    config = base_config()
    config.task, config.loss = task, loss
    config.model = {"name": "vit_ti16", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}
    config.data = {"train": f"csv:{tmp_path / 'table.csv'}", "eval": "", "image_size": 16}
    config.evals[task].every = ""
    config.batch_size, config.duration, config.schedule.base_lr = 8, "4 steps", 0.05
    config.log = {"compile_cache": "", "tensorboard": False}
    train(config, tmp_path / "run")
    model, variables = vj.load_pretrained(tmp_path / "run")
    images = np.stack([vj.preprocessing(tmp_path / "run")(tmp_path / f"{i}.png") for i in range(4)])
    return tmp_path / "run", np.asarray(model.apply(variables, images))


def test_any_number_of_labels(tmp_path, monkeypatch, capsys):
    """Each with a probability of its own, the likeliest first; all of them, unless `--top` says fewer."""
    names = [f"label {i}" for i in range(8)]
    text = "file,labels\n" + "".join(f"{i}.png,{names[i]}|{names[i + 4]}\n" for i in range(4))
    folder, logits = run_of(tmp_path, "multi_label", text)
    expected = 1 / (1 + np.exp(-logits))
    run(monkeypatch, f"--model={folder}", *(tmp_path / f"{i}.png" for i in range(4)), "--json")
    for line, row in zip(capsys.readouterr().out.strip().splitlines()[-4:], expected, strict=True):
        found = json.loads(line)["predictions"]
        assert [entry["label"] for entry in found] == [names[i] for i in np.argsort(-row, kind="stable")]
        np.testing.assert_allclose([entry["probability"] for entry in found], np.sort(row)[::-1], atol=1e-5)
    run(monkeypatch, f"--model={folder}", tmp_path / "0.png", "--top=2", "--labels=label 1,label 3,label 7")
    lines = capsys.readouterr().out.splitlines()[1:]
    best = [i for i in np.argsort(-expected[0]) if i in (1, 3, 7)][:2]
    assert lines == [f"{expected[0][i]:8.2%}  {names[i]}" for i in best]


@pytest.mark.parametrize("mean, std", [((40.0, -2.0), (10.0, 0.5)), ((1.5,), (3.0,))])
def test_numbers_in_their_own_units(tmp_path, monkeypatch, capsys, mean, std):
    """By the names of the targets and in their order, though the pictures have classes too."""
    folder, outputs = run_of(
        tmp_path, "regression", "age,label,file,size\n1,a,0.png,2\n3,b,1.png,4\n", mean=mean, std=std
    )
    expected = outputs * std + mean
    run(monkeypatch, f"--model={folder}", *(tmp_path / f"{i}.png" for i in range(4)), "--json")
    for line, row in zip(capsys.readouterr().out.strip().splitlines()[-4:], expected, strict=True):
        found = json.loads(line)["predictions"]
        assert [(entry["label"], entry["index"]) for entry in found] == [("age", 0), ("size", 1)]
        np.testing.assert_allclose([entry["value"] for entry in found], row, rtol=1e-4)
    run(monkeypatch, f"--model={folder}", tmp_path / "0.png")
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["age", "size"]
    np.testing.assert_allclose([float(line.split()[0]) for line in lines], expected[0], rtol=1e-3)
    run(monkeypatch, f"--model={folder}", tmp_path / "0.png", "--labels=size", "--json")
    assert [entry["label"] for entry in json.loads(capsys.readouterr().out)["predictions"]] == ["size"]


def test_as_a_user_runs_it(models, pictures):
    command = [sys.executable, "-m", "vision_jax.predict", f"--model={models['vit'][0]}", str(pictures / "a.png")]
    done = subprocess.run(
        [*command, "--top=2", "--labels=1,2,3,4,5"], cwd=REPO, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first == str(pictures / "a.png") and len(rows) == 2
    assert all(row.split()[0].endswith("%") and row.split()[1] in "12345" for row in rows)


def test_some_of_a_classifier_s_own_classes(models, pictures, monkeypatch, capsys):
    """Found by name, whatever their order; their probabilities are those among all."""
    folder, model, variables = models["vit"]
    run(monkeypatch, f"--model={folder}", pictures, "--json", "--labels=elk,bee")
    found = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    expected = softmax(np.asarray(model.apply(variables, images_of(pictures))))
    for rows, row in zip(found, expected, strict=True):
        assert {entry["label"]: entry["index"] for entry in rows} == {"bee": 1, "elk": 4}
        np.testing.assert_allclose([entry["probability"] for entry in rows], sorted(row[[1, 4]])[::-1], atol=1e-5)


def test_outputs_without_a_name_are_called_by_their_numbers(models, pictures, monkeypatch, capsys):
    """Those of a new head, and those beyond the names of a run's classes."""
    run(monkeypatch, f"--model={models['vit'][0]}", pictures / "a.png", "--json", "--top=9", "--set", "num_classes=7")
    (line,) = capsys.readouterr().out.splitlines()
    names = {entry["index"]: entry["label"] for entry in json.loads(line)["predictions"]}
    assert names == {i: f"class {i}" for i in range(7)}
    names = answers.class_names(("ape", "bee"), 5, ())
    assert list(names.values()) == ["ape", "bee", "class 2", "class 3", "class 4"]


@pytest.mark.parametrize("labels", ["cat, big dog", "file"])
def test_labels_of_a_clip(models, pictures, monkeypatch, capsys, tmp_path, labels):
    folder, model, variables = models["clip"]
    texts = ["a photo of a cat.", "a photo of a big dog."]
    if labels == "file":
        (tmp_path / "labels.json").write_text(json.dumps(["cat", {"name": "big dog", "context": "a mammal"}]))
        labels, texts[1] = tmp_path / "labels.json", "a photo of a big dog, a mammal."
    run(monkeypatch, f"--model={folder}", pictures, "--json", f"--labels={labels}", "--tokenizer=bytes")
    found = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    tokens = open_tokenizer("bytes", 40)(texts)
    image, text, scale = model.apply(variables, images_of(pictures), tokens)
    expected = softmax(np.asarray(scale * image @ text.T))
    for rows, row in zip(found, expected, strict=True):
        assert {entry["label"] for entry in rows} == {"cat", "big dog"}
        np.testing.assert_allclose(
            [entry["probability"] for entry in sorted(rows, key=lambda e: e["index"])], row, atol=1e-5
        )


def test_an_ensemble_of_prompts(models, pictures, monkeypatch, capsys, tmp_path):
    folder, model, variables = models["clip"]
    (tmp_path / "templates.json").write_text(json.dumps(["{}", "my {}"]))
    argv = ["--labels=ox,hen", "--tokenizer=bytes", f"--templates={tmp_path / 'templates.json'}", "--json"]
    run(monkeypatch, f"--model={folder}", pictures, *argv)
    found = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    tokens = open_tokenizer("bytes", 40)(["ox", "my ox", "hen", "my hen"])
    image, text, scale = model.apply(variables, images_of(pictures), tokens)
    means = np.stack([(text[0] + text[1]) / 2, (text[2] + text[3]) / 2])
    expected = softmax(np.asarray(scale * image @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T))
    for rows, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            [entry["probability"] for entry in sorted(rows, key=lambda e: e["index"])], row, atol=1e-5
        )


@pytest.mark.parametrize("name", ["vit", "features", "clip"])
def test_features(models, pictures, monkeypatch, tmp_path, name):
    folder, model, variables = models[name]
    run(monkeypatch, f"--model={folder}", pictures, f"--features={tmp_path / 'out.npz'}")
    found = np.load(tmp_path / "out.npz")
    assert found["files"].tolist() == [str(pictures / name) for name in ("a.png", "b.jpg", "z/c.PNG")]
    images = images_of(pictures)
    if name == "clip":
        expected = model.apply(variables, images, method=CLIP.encode_image)
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    else:
        params = {key: tree for key, tree in variables["params"].items() if key != "head"}
        expected = model.clone(num_classes=0).apply({"params": params}, images)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)


def test_another_size_and_a_field(models, pictures, monkeypatch, tmp_path):
    folder, model, _ = models["vit"]
    argv = [f"--features={tmp_path / 'out.npz'}", "--image_size=32x16", "--set", "pool=gap"]
    run(monkeypatch, f"--model={folder}", pictures / "a.png", *argv)
    model, variables = vj.load_pretrained(folder, image_size=(32, 16), pool="gap", cls_token=True)
    image = vj.preprocessing(folder, image_size=(32, 16))(pictures / "a.png")
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npz")["features"][0], vj.encode(model, variables, image[None])[0], atol=1e-5
    )


CASES = {
    "no model": (["{pictures}"], ["--model"]),
    "no pictures": (["--model={vit}"], ["IMAGE"]),
    "no such picture": (["--model={vit}", "{tmp}/cat.jpg"], ["{tmp}/cat.jpg"]),
    "an empty folder": (["--model={vit}", "{tmp}"], ["{tmp}", ".png"]),
    "nothing readable": (["--model={vit}", "{pictures}/notes.txt"], ["none of the pictures can be read"]),
    "no such model": (["--model={tmp}/vit", "{pictures}"], ["{tmp}/vit"]),
    "no classes": (["--model={features}", "{pictures}"], ["no classes", "--features"]),
    "a CLIP without labels": (["--model={clip}", "{pictures}"], ["--labels"]),
    "another vocabulary": (["--model={clip}", "{pictures}", "--labels=a,b", "--tokenizer=words"], ["words"]),
    "too few labels": (["--model={vit}", "{pictures}", "--labels=a,b"], ["no class 'a' (and 1 more)", "2", "5"]),
    "a label that is no class": (
        ["--model={vit}", "{pictures}", "--labels=cat,dogs"],
        ["no class 'dogs'", "did you mean 'dog'?"],
    ),
    "no labels": (["--model={clip}", "{pictures}", "--labels=,", "--tokenizer=bytes"], ["--labels"]),
    "no such templates": (
        ["--model={clip}", "{pictures}", "--labels=a,b", "--templates=plane", "--tokenizer=bytes"],
        ["--templates", "'plain'"],
    ),
    "top 0": (["--model={vit}", "{pictures}", "--top=0"], ["--top"]),
    "wrong size": (["--model={vit}", "{pictures}", "--image_size=big"], ["--image_size", "big"]),
    "no field": (["--model={vit}", "{pictures}", "--set", "pool"], ["--set", "pool"]),
    "unknown field": (["--model={vit}", "{pictures}", "--set", "pooling=gap"], ["pooling"]),
    "features below a file": (
        ["--model={vit}", "{pictures}/a.png", "--features={pictures}/notes.txt/f.npz"],
        ["--features", "notes.txt/f.npz"],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_one_clear_line(case, models, pictures, monkeypatch, capsys, tmp_path):
    argv, words = CASES[case]
    places = dict(pictures=pictures, tmp=tmp_path, **{name: folder for name, (folder, *_) in models.items()})
    with pytest.raises(SystemExit) as exit:
        run(monkeypatch, *(word.format(**places) for word in argv))
    assert exit.value.code == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("skipped")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word.format(**places) in lines[0], lines[0]
