"""`config.init_from` of other projects' files."""

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.models import CLIP, MAE, Swin, ViT
from vision_jax.models.inference import variable_shapes
from vision_jax.ops.posemb import sincos2d
from vision_jax.ops.resampling import resize_posemb
from vision_jax.training.initialization import init_from
from vision_jax.training.loop import train
from vision_jax.weights.families import mae, vit_timm
from vision_jax.weights.mapping import export_variables
from vision_jax.weights.torch_writer import write_torch

SIZES = {"patch_size": 4, "width": 32, "depth": 2, "num_heads": 4, "mlp_dim": 48}
VIT = ViT(5, **SIZES, act="gelu", norm_eps=1e-12)  # as transformers has it
ENCODER = ViT(3, **SIZES, act="gelu", pool="gap", cls_token=True, norm_pooled=True, posemb="learn_sincos2d")
TOWER = {**SIZES, "act": "quick_gelu", "norm_eps": 1e-5, "pre_norm": True, "patch_bias": False}
TEXT = {"embed_dim": 16, "text_width": 16, "text_depth": 1, "text_num_heads": 2, "vocab_size": 30, "context_length": 6}
ABSENT = object()


def drawn(model, size, seed=0):
    """Random variables of a model, as host arrays."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variable_shapes(model, size))


@pytest.fixture
def vit(tmp_path):
    """(folder of transformers' for images of 16 x 16, its parameters)"""
    variables = drawn(VIT, (16, 16))
    vj.save_pretrained(tmp_path / "vit", VIT, variables)
    return tmp_path / "vit", variables["params"]


def started(source, model, size=(16, 16), class_names=()):
    """(parameters, report) of a model that starts from a source."""
    variables, report = init_from(str(source), model, size, drawn(model, size, seed=1), class_names)
    return variables["params"], report


def test_a_folder_of_transformers(vit):
    folder, theirs = vit
    params, report = started(folder, VIT)
    chex.assert_trees_all_equal(params, theirs)
    assert not (report.resized or report.dropped or report.new)
    params, report = started(folder, VIT.clone(num_classes=3, scan=True), (24, 20))
    table = resize_posemb(theirs["pos_embed"], (4, 4), (6, 5), 1, "bicubic")  # as transformers resamples its own
    np.testing.assert_array_equal(params["pos_embed"], table)
    np.testing.assert_array_equal(params["blocks"]["norm1"]["scale"][1], theirs["blocks_1"]["norm1"]["scale"])
    assert not np.any(params["head"]["kernel"]) and report.resized == ["pos_embed"]


@pytest.fixture
def named(tmp_path):
    """As `vit`, of the classes a, b, c, d and e."""
    variables = drawn(VIT, (16, 16))
    vj.save_pretrained(tmp_path / "named", VIT, variables, class_names=tuple("abcde"))
    return tmp_path / "named", variables["params"]


@pytest.mark.parametrize("ours", ["abcde", "ebdca", "db", ""])
def test_a_head_is_taken_by_the_names_of_classes(named, ours):
    """In another order, and some of them; without names as it is. Outputs without a name are zeros."""
    folder, theirs = named
    for outputs in (len(ours), 7) if ours not in ("abcde", "") else (5,):
        params, report = started(folder, VIT.clone(num_classes=outputs), class_names=ours)
        taken = ["abcde".index(name) for name in ours or "abcde"]
        np.testing.assert_array_equal(params["head"]["kernel"][:, : len(taken)], theirs["head"]["kernel"][:, taken])
        np.testing.assert_array_equal(params["head"]["bias"][: len(taken)], theirs["head"]["bias"][taken])
        assert params["head"]["kernel"].shape == (32, outputs) and not params["head"]["kernel"][:, len(taken) :].any()
        assert (f"taken by the names of classes: {len(ours)} of the source's 5" in str(report)) == (
            len(taken) < 5 or taken[0] > 0
        )
        assert not report.new and not report.dropped
        body = [{name: x for name, x in tree.items() if name != "head"} for tree in (params, theirs)]
        chex.assert_trees_all_equal(*body)


@pytest.mark.parametrize(
    "ours, unknown", [("vwxyz", "'v' (and 4 more)"), ("abcdx", "'x'"), ("abcdefg", "'f' (and 1 more)")]
)
def test_other_classes_get_a_new_head(named, ours, unknown):
    """As many, one renamed, and more."""
    folder, theirs = named
    params, report = started(folder, VIT.clone(num_classes=len(ours)), class_names=ours)
    chex.assert_trees_all_equal(params["head"], {"kernel": np.zeros((32, len(ours))), "bias": np.zeros(len(ours))})
    assert sorted(report.new) == sorted(report.dropped) == ["head/bias", "head/kernel"]
    line = f"the head is new, since the source, whose classes are 'a' (and 4 more), has no class {unknown}"
    assert str(report).splitlines()[-1] == line
    np.testing.assert_array_equal(params["pos_embed"], theirs["pos_embed"])


def test_a_name_of_two_classes_is_taken_from_neither(tmp_path):
    variables = drawn(VIT, (16, 16))
    vj.save_pretrained(tmp_path, VIT, variables, class_names=("a", "crane", "crane", "d", "e"))
    params, report = started(tmp_path, VIT, class_names=("a", "crane", "crane", "d", "e"))
    chex.assert_trees_all_equal(params, variables["params"])  # the very same
    params, report = started(tmp_path, VIT.clone(num_classes=2), class_names=("a", "crane"))
    assert not params["head"]["kernel"].any() and "has several classes 'crane'" in str(report)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"act": "gelu_tanh"}, "act='gelu', and this one has 'gelu_tanh'"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-12, and this one has 1e-06"),
        ({"num_heads": 8}, "num_heads=4, and this one has 8"),
        ({"mlp_dim": 40}, r"it holds 'blocks_\d/mlp/fc1/\w+' as .*48.*, the model needs .*40"),
    ],
)
def test_a_model_that_computes_something_else(vit, fields, words):
    with pytest.raises(ConfigError, match=words) as caught:
        started(vit[0], VIT.clone(**fields))
    assert str(vit[0]) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def pretrained(tmp_path):
    """(MAE, its parameters); full.pth with its decoder and encoder.pth without, as facebookresearch names them."""
    model = MAE(**SIZES, decoder_width=16, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=24)
    variables = drawn(model, (16, 16))
    arrays = export_variables(variables, vit_timm.names_timm()) | mae.constants_official(model, (16, 16))
    write_torch(tmp_path / "full.pth", arrays)
    encoder = {name: x for name, x in arrays.items() if not name.startswith(("decoder", "mask_token"))}
    write_torch(tmp_path / "encoder.pth", encoder)
    return model, variables["params"]


@pytest.mark.parametrize("name", ["encoder.pth", "full.pth"])
def test_fine_tuning_of_an_mae(name, tmp_path, pretrained):
    """What the file leaves open, as heads, is as in the model; the norm of pooled features and the head are new."""
    _, theirs = pretrained
    params, report = started(tmp_path / name, ENCODER)
    body = {name: x for name, x in params.items() if name not in ("head", "fc_norm", "pos_embed")}
    chex.assert_trees_all_equal(body, {name: theirs[name] for name in body})
    np.testing.assert_allclose(params["pos_embed"], sincos2d((4, 4), 32, prefix=1), atol=1e-6)
    assert sorted(report.new) == ["fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel"]
    assert sorted(report.dropped) == ["norm/bias", "norm/scale"]
    table = resize_posemb(sincos2d((4, 4), 32, prefix=1), (4, 4), (6, 6), 1, "bicubic")
    np.testing.assert_allclose(started(tmp_path / name, ENCODER, (24, 24))[0]["pos_embed"], table, atol=1e-6)


def test_pre_training_on_from_an_mae(tmp_path, pretrained):
    model, theirs = pretrained
    params, _ = started(tmp_path / "full.pth", model)
    chex.assert_trees_all_equal(params, theirs)
    with pytest.raises(ConfigError, match="norm_eps=1e-06, and this one has 1e-05"):
        started(tmp_path / "full.pth", model.clone(norm_eps=1e-5))


def test_a_locked_image_tower(vit):
    """LiT: "image=FOLDER" of any image model."""
    folder, theirs = vit
    model = CLIP("vit", {**SIZES, "act": "gelu", "norm_eps": 1e-12}, **TEXT)
    params, report = started(f"image={folder}", model)
    chex.assert_trees_all_equal(params["image"], {name: x for name, x in theirs.items() if name != "head"})
    assert sorted(report.dropped) == ["image/head/bias", "image/head/kernel"]
    assert "image_projection/kernel" in report.new and "text/token_embedding" in report.new
    with pytest.raises(ConfigError, match="act='gelu'"):
        started(f"image={folder}", CLIP("vit", SIZES, **TEXT))
    with pytest.raises(ConfigError, match="holds a ViT, which has no text tower"):
        started(f"text={folder}", model)
    with pytest.raises(ConfigError, match="the model has no image tower"):
        started(f"image={folder}", VIT)


def test_towers_of_a_clip(tmp_path):
    clip = CLIP("vit", TOWER, **TEXT)
    variables = drawn(clip, (16, 16))
    vj.save_pretrained(tmp_path, clip, variables)
    params, report = started(tmp_path, ViT(5, **TOWER))
    tower = variables["params"]["image"]
    chex.assert_trees_all_equal({name: x for name, x in params.items() if name != "head"}, tower)
    assert sorted(report.new) == ["head/bias", "head/kernel"] and not report.dropped
    for name in ("image", "text"):
        params, report = started(f"{name}={tmp_path}", clip)
        chex.assert_trees_all_equal(params[name], variables["params"][name])
        assert all(path.startswith(f"{name}/") for path in report.loaded)
    with pytest.raises(ConfigError, match="text_act='quick_gelu', and this one has 'gelu'"):
        started(f"text={tmp_path}", clip.clone(text_act="gelu"))
    started(f"image={tmp_path}", clip.clone(text_act="gelu"))


def test_swin_v2_must_say_in_which_windows_it_learned_its_offsets(tmp_path):
    theirs = Swin(5, 2, 8, (2, 1), (1, 2), 4, version=2)
    variables = drawn(theirs, (32, 32))
    vj.save_pretrained(tmp_path, theirs, variables, image_size=32)
    wider = Swin(5, 2, 8, (2, 1), (1, 2), 8, version=2)
    with pytest.raises(ConfigError, match=r"windows \(4, 4\): set pretrained_window=\(4, 4\)"):
        started(tmp_path, wider, (32, 32))
    params, _ = started(tmp_path, wider.clone(pretrained_window=4), (32, 32))
    chex.assert_trees_all_equal(params, variables["params"])


def test_what_became_no_parameter_is_told(tmp_path, vit):
    """Beside parameters that the model has no place for, tensors of the file that no table knows."""
    from vision_jax.weights.readers import open_tensors
    from vision_jax.weights.safetensors import write_safetensors

    file = vit[0] / "model.safetensors"
    arrays = {name: tensor.read() for name, tensor in open_tensors(file).items()}
    write_safetensors(file, arrays | {"vit.extra": np.ones(3, np.float32)})
    assert started(vit[0], VIT)[1].dropped == ["vit.extra"]


def test_a_run_starts_from_a_folder_of_transformers(vit, tmp_path):
    """At a learning rate that moves nothing but zeros."""
    folder, theirs = vit
    config = base_config()
    config.model = {"name": "vit_ti16", **SIZES, "act": "gelu", "norm_eps": 1e-12}
    config.data.train, config.data.eval, config.data.image_size = "digits:train", "digits:test", 16
    config.data.augment = {"crop_area": None, "flip": False}
    config.batch_size, config.duration, config.init_from = 16, "1 steps", str(folder)
    config.schedule = {"base_lr": 1e-20, "warmup": "0 steps"}
    config.evals.classification.every, config.checkpoint.best = "", ""
    config.log.tensorboard = False
    train(config, tmp_path / "run")
    _, trained = vj.load_pretrained(tmp_path / "run")
    head = trained["params"].pop("head")
    assert head["kernel"].shape == (32, 10) and np.abs(head["kernel"]).max() < 1e-15
    chex.assert_trees_all_equal(trained["params"], {name: x for name, x in theirs.items() if name != "head"})
    config.model.act = "gelu_tanh"
    with pytest.raises(ConfigError, match=r"model\.act='gelu_tanh' is 'gelu' there; --config\.model\.act=gelu would"):
        train(config, tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()
