"""configs/finetune.py: from anyone's weights and a folder of photos to a model that their own library loads."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax import convert, main
from vision_jax.command_line import load_config
from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.models import MAE, ViT
from vision_jax.models.inference import variable_shapes
from vision_jax.training.origin import complete, read_origin

SIZES = {"patch_size": 8, "width": 24, "depth": 1, "num_heads": 2, "mlp_dim": 32}
CLASSES = ("bud", "gate", "petal", "roof", "wall")
OPTIONS = ["--config.duration=2 steps", "--config.log.compile_cache=", "--config.log.tensorboard=False"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five classes of ten JPEGs of many sizes, cut out of two photos."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    whole = pytest.importorskip("sklearn.datasets").load_sample_images().images
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for i in range(10):
            (height, width), top, left = rng.integers(70, 140, 2), *rng.integers(0, 280, 2)
            picture = Image.fromarray(whole[number % 2][top : top + height, left : left + width])
            picture.save(folder / name / f"{i}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder of transformers', with an activation and an epsilon that are not ours."""
    folder, model, rng = (
        tmp_path_factory.mktemp("vit"),
        ViT(3, **SIZES, act="gelu", norm_eps=1e-12),
        np.random.default_rng(0),
    )
    shapes = variable_shapes(model, (32, 32))
    variables = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape) * 0.3), shapes)
    how = vj.Preprocessing((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", "squash", 1.0)
    vj.save_pretrained(folder, model, variables, preprocessing=how)
    return folder


def finetuned(photos, source, workdir, *options):
    main.run(
        [f"--config=finetune:{photos}", f"--config.init_from={source}", f"--workdir={workdir}", *OPTIONS, *options]
    )
    return json.loads((workdir / "config.json").read_text())


def exported(workdir, folder, format):
    convert.convert(str(workdir), folder, format)
    return folder


def assert_same_logits(workdir, photos, theirs):
    """`theirs(picture)`: the logits of the original library, which prepares the picture itself."""
    model, variables = vj.load_pretrained(workdir)
    transform, apply = vj.preprocessing(workdir), jax.jit(model.apply)
    for name in CLASSES:
        file = photos / name / "9.jpg"  # held out
        expected = theirs(Image.open(file).convert("RGB"))
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(apply(variables, transform(file)[None])[0], expected, rtol=0, atol=1e-5)


def of_transformers(folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert tuple(model.config.id2label.values()) == CLASSES

    def logits(picture):
        with torch.no_grad():
            return model(**prepare(picture, return_tensors="pt")).logits[0].numpy()

    return logits


def of_timm(folder):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))

    def logits(picture):
        with torch.no_grad():
            return model(prepare(picture)[None])[0].numpy()

    return logits


@pytest.fixture(scope="module")
def first(photos, vit, tmp_path_factory):
    """(work folder, config.json, lines that were printed)"""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    config = finetuned(photos, vit, workdir, "--config.model.drop_path_rate=0.1")
    return workdir, config, (workdir / "log.txt").read_text().splitlines()


def test_the_config_is_what_the_source_and_the_folder_say(first, photos, vit):
    _, config, lines = first
    assert config["model"] == {"name": "vit", "num_classes": 5, "drop_path_rate": 0.1} | {
        **{"patch_size": 8, "width": 24, "depth": 1, "num_heads": 2, "mlp_dim": 32},
        **{"act": "gelu", "norm_eps": 1e-12, "qkv_bias": True, "cls_token": True},
    }
    data = config["data"]
    assert (data["image_size"], data["mean"], data["std"]) == (32, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert (data["interpolation"], data["eval_resize"]) == ("bilinear", "squash")
    assert (data["train"], data["eval"]) == (f"folder:{photos}[:80%]", f"folder:{photos}[80%:]")
    assert config["batch_size"] == 8 and config["derived"]["class_names"] == list(CLASSES)
    assert f"evaluation   classification on folder:{photos}[80%:]" in lines
    assert any(line.startswith("from there   model.name=vit  model.patch_size=8") for line in lines)
    assert any(line.startswith("schedule.warmup is 1 steps instead of 20 (20 steps)") for line in lines)


def test_transformers_loads_what_came_of_its_own(first, photos, tmp_path):
    assert_same_logits(first[0], photos, of_transformers(exported(first[0], tmp_path / "hf", "hf")))


def test_the_same_command_goes_on_without_the_source(first, photos, vit, tmp_path):
    """And evaluates; a source that says something else is another one."""
    shutil.copytree(first[0], tmp_path / "run")
    moved = ["--config.model.drop_path_rate=0.1", "--config.duration=3 steps", "--accept=duration"]
    shutil.move(vit, vit.with_name("moved"))
    try:
        config = finetuned(photos, vit, tmp_path / "run", *moved)
        main.run(["--mode=eval", f"--config=finetune:{photos}", f"--workdir={tmp_path / 'run'}"])
    finally:
        shutil.move(vit.with_name("moved"), vit)
    assert config["model"] == first[1]["model"] and config["data"] == first[1]["data"]
    with pytest.raises(ConfigError, match=r"data\.image_size: was 32, is 48"):
        finetuned(photos, vit, tmp_path / "run", *moved, "--config.data.image_size=48")


def test_a_run_is_a_source_and_the_command_line_comes_first(first, photos, tmp_path, capsys):
    """Of the same classes: the head comes along; and only it trains."""
    spec, options = f"{photos},head", ["--config.data.image_size=48", "--config.data.mean=(0.5, 0.5, 0.5)"]
    config = finetuned(spec, first[0], tmp_path, *options, "--config.schedule.base_lr=1e-20")
    assert "warning: data.mean=(0.5, 0.5, 0.5) is (0.4, 0.5, 0.6) in" in capsys.readouterr().out
    assert config["data"]["image_size"] == 48 and config["data"]["std"] == [0.2, 0.3, 0.4]
    assert config["data"]["mean"] == [0.5] * 3 and "drop_path_rate" not in config["model"]
    before, after = (vj.load_pretrained(run)[1]["params"] for run in (first[0], tmp_path))
    assert after["pos_embed"].shape == (1, 37, 24)
    np.testing.assert_allclose(after["head"]["kernel"], before["head"]["kernel"], atol=1e-6)
    for name in ("patch_embed", "norm"):
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        ("timm ViT", "timm", []),
        ("timm Swin", "timm", []),
        ("transformers CLIP", "timm", []),
        ("open_clip", "timm", []),
        ("transformers Swin", "hf", []),
        ("transformers ViTMAE", "hf", []),
        ("facebookresearch MAE", "timm", ["--config.model.num_heads=3"]),
        ("microsoft Swin", "timm", []),
        ("Google ViT", "hf", []),
        ("OpenAI ResNet", "", []),  # which no other library has as a classifier
    ],
)
@pytest.mark.slow
def test_whatever_is_published(name, format, options, photos, tmp_path):
    pytest.importorskip("torch")
    from published import ORIGINALS

    source = ORIGINALS[name](tmp_path)
    finetuned(photos, source.path, tmp_path / "run", *options)
    if format:
        folder = exported(tmp_path / "run", tmp_path / "out", format)
        assert_same_logits(tmp_path / "run", photos, {"hf": of_transformers, "timm": of_timm}[format](folder))


def resolved(spec, source, **fields):
    config = load_config(spec)
    config.model, config.init_from = fields, str(source)
    return complete(config, read_origin(config))[0]


def test_a_recipe_takes_what_it_does_not_say(vit):
    config = resolved("vit_b16_finetune_384", vit, **SIZES)
    assert (config.model.act, config.model.norm_eps, config.data.mean) == ("gelu", 1e-12, (0.4, 0.5, 0.6))
    assert config.data.image_size == 384 and config.model.pool == "token"
    with pytest.raises(ConfigError) as caught:
        resolved("vit_b16_finetune_384", vit, width=48, act="relu")
    message = str(caught.value)
    assert "model.width=48 is 24 there" in message and "\n" not in message
    flags = ["patch_size=8", "width=24", "depth=1", "num_heads=2", "mlp_dim=32", "act=gelu"]
    assert all(f"--config.model.{flag}" in message for flag in flags) and "norm_eps" not in message
    with pytest.raises(ConfigError, match=r"holds a ViT, and .*'swin_b_w12' is a Swin; --config.model.name=init_from"):
        resolved("swin_base_finetune_384", vit)


def test_the_towers_of_a_clip_take_theirs(vit):
    config = resolved("lit_vitb16", f"image={vit}", image=SIZES)
    assert config.model.image["act"] == "gelu" and config.model.image["norm_eps"] == 1e-12 and "act" not in config.model


def test_an_mae_gives_its_encoder(tmp_path):
    model = MAE(**SIZES, decoder_width=16, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=24)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variable_shapes(model, (32, 32)))
    vj.save_pretrained(tmp_path, model, variables, image_size=32)
    assert resolved("mae_vitb_finetune", tmp_path, **SIZES).model.posemb == "learn_sincos2d"
    config = base_config()
    config.model.name, config.init_from, config.task = "init_from", str(tmp_path), "masked_autoencoding"
    assert complete(config, read_origin(config))[0].model.decoder_width == 16
    config.task = "classification"
    assert complete(config, read_origin(config))[0].model.posemb == "learn_sincos2d"


@pytest.mark.parametrize(
    "spec", ["mae_digits_finetune", "vit_b16_deit3:finetune", "lit_vitb16", "swin_base_finetune_384"]
)
def test_fine_tuning_needs_a_source(spec, tmp_path):
    with pytest.raises(ConfigError, match=r"needs --config\.init_from=SOURCE: .*trains from scratch"):
        main.run([f"--config={spec}", f"--workdir={tmp_path}"])
    assert not list(tmp_path.iterdir())


def test_photos_and_a_source_must_be_named(photos, tmp_path):
    with pytest.raises(ConfigError, match="needs a folder of class folders: --config=finetune:PHOTOS"):
        load_config("finetune")
    with pytest.raises(ConfigError, match="data folder 'nowhere' does not exist"):
        load_config("finetune:nowhere")
    with pytest.raises(ConfigError, match=r"so it needs --config\.init_from=SOURCE"):
        main.run([f"--config=finetune:{photos}", f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    ("count", "batch_size", "steps"), [(3, 2, 200), (8, 8, 200), (100, 16, 200), (1000, 64, 312), (100_000, 64, 10_000)]
)
def test_steps_follow_from_the_number_of_pictures(count, batch_size, steps, tmp_path, monkeypatch):
    monkeypatch.setattr("vision_jax.data.open_source", lambda spec: range(count))
    config = load_config(f"finetune:{tmp_path}")
    assert (config.batch_size, config.duration) == (batch_size, f"{steps} steps")


@pytest.mark.parametrize(
    ("there", "train", "test"),
    [
        (["a", "b"], "[:80%]", "[80%:]"),
        (["train/a", "train/b"], "/train[:80%]", "/train[80%:]"),
        (["train/a", "val/a"], "/train", "/val"),
        (["train", "val"], "[:80%]", "[80%:]"),  # two classes that are called so
    ],
)
def test_what_is_held_out(there, train, test, tmp_path):
    for name in there:
        (tmp_path / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (9, 9)).save(tmp_path / name / f"{i}.png")
    data = load_config(f"finetune:{tmp_path}").data
    assert (data.train, data.eval) == (f"folder:{tmp_path}{train}", f"folder:{tmp_path}{test}")
