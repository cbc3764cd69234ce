"""ViT's files of transformers and timm: the originals' outputs, in and out."""

import re

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import ViT
from vision_jax.models.inference import variable_shapes
from vision_jax.weights.families import vit, vit_timm
from vision_jax.weights.mapping import entries, export_variables
from vision_jax.weights.tensors import Tensor

torch = pytest.importorskip("torch")
from originals import assert_close, images_of, imported  # noqa: E402
from vit_peers import drawn, loaded, randomize, theirs_of, timm_hybrid  # noqa: E402


def vit_of_transformers(kind="ViTForImageClassification", size=(32, 32), patch=8, width=24, heads=3, **config):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        **{
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "intermediate_size": 2 * width + 3,
            "image_size": size,
            "patch_size": patch,
            "num_labels": 5,
            **config,
        }
    )
    return randomize(getattr(transformers, kind)(config))


def back_to_transformers(folder, model, params, image_size, kind):
    transformers = pytest.importorskip("transformers")
    vj.save_pretrained(folder, model, {"params": params}, image_size=image_size)
    again, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return again.eval()


@pytest.mark.parametrize(
    ("size", "patch", "width", "heads", "config"),
    [
        ((32, 32), 8, 24, 3, {}),
        ((28, 21), (7, 7), 40, 5, {"hidden_act": "relu", "layer_norm_eps": 1e-5, "qkv_bias": False}),
        ((24, 10), (12, 5), 28, 14, {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}),
    ],
)
def test_classifier_of_transformers(tmp_path, size, patch, width, heads, config):
    theirs = vit_of_transformers(size=size, patch=patch, width=width, heads=heads, **config)
    theirs.save_pretrained(tmp_path)
    images = images_of(size)
    expected = theirs_of(theirs, images).logits
    description, model, params, report = loaded(tmp_path, vit.describe_transformers)
    assert (model.num_classes, description.image_size) == (5, size)
    assert not report.unexpected and not report.ignored
    assert_close(jax.jit(model.apply)({"params": params}, images), expected)
    again = back_to_transformers(tmp_path / "again", model, params, size, type(theirs).__name__)
    assert_close(theirs_of(again, images).logits, expected)


def test_names_of_transformers_own_modules(tmp_path):
    """As transformers 5 writes them where it is told not to go back to the published ones."""
    theirs = vit_of_transformers()
    images = images_of((32, 32))
    theirs.save_pretrained(tmp_path, save_original_format=False)
    _, model, params, report = loaded(tmp_path, vit.describe_transformers)
    assert not report.unexpected and not report.ignored
    assert_close(jax.jit(model.apply)({"params": params}, images), theirs_of(theirs, images).logits)


def test_pooler_of_transformers(tmp_path):
    theirs = vit_of_transformers("ViTModel", pooler_output_size=10)
    theirs.save_pretrained(tmp_path)
    images = images_of((32, 32))
    expected = theirs_of(theirs, images)
    _, model, params, report = loaded(tmp_path, vit.describe_transformers)
    assert not report.unexpected and not report.ignored
    assert_close(jax.jit(model.apply)({"params": params}, images), expected.pooler_output)
    again = back_to_transformers(tmp_path / "again", model, params, (32, 32), "ViTModel")
    assert_close(theirs_of(again, images).pooler_output, expected.pooler_output)
    _, model, params, report = loaded(
        tmp_path, vit.describe_transformers, {"representation_size": None, "pool": "none"}
    )
    assert sorted(report.ignored) == ["pooler.dense.bias", "pooler.dense.weight"]
    assert_close(jax.jit(model.apply)({"params": params}, images), expected.last_hidden_state)


def test_fixed_positions_are_written_for_transformers(tmp_path):
    model = ViT(5, 8, 24, 1, 3, 30, posemb="sincos2d", act="gelu")
    params = unflatten_dict(drawn(model, (16, 24)), sep="/")
    images = images_of((16, 24))
    again = back_to_transformers(tmp_path / "again", model, params, (16, 24), "ViTForImageClassification")
    assert_close(theirs_of(again, images).logits, jax.jit(model.apply)({"params": params}, images))


TIMM = {
    "vit": {},
    "deit3": dict(init_values=0.1, no_embed_class=True, qkv_bias=False, img_size=(12, 20)),
    "registers": dict(class_token=False, reg_tokens=3, no_embed_class=True, global_pool="avg", init_values=0.1),
    "registers after cls": dict(reg_tokens=2, no_embed_class=True, global_pool="avg", fc_norm=False),
    "map": dict(class_token=False, global_pool="map", act_layer="gelu_tanh"),
    "clip": dict(pre_norm=True, act_layer="quick_gelu", architecture="vit_base_patch16_clip_quickgelu_224"),
    "features": dict(num_classes=0, pos_embed="none", global_pool="avg", patch_size=(4, 2)),
    "hybrid": dict(architecture="vit_tiny_r_s16_p8_224", img_size=(48, 32), patch_size=2),
    "tokens": dict(global_pool="", act_layer="relu", img_size=(8, 12)),
}
SIZES = dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, num_classes=5)


def timm_folder(folder, architecture="vit_base_patch16_224", **args):
    """A folder as timm's own push to the hub writes it."""
    timm = pytest.importorskip("timm")
    from timm.models._hub import save_for_hf

    theirs = randomize(timm.create_model(architecture, **args))
    save_for_hf(theirs, folder, model_args=args)
    return theirs


def back_to_timm(folder, model, params, image_size, preprocessing=None):
    timm = pytest.importorskip("timm")
    how = vj.Preprocessing(image_size, **preprocessing) if preprocessing else None
    vj.save_pretrained(folder, model, {"params": params}, "timm", preprocessing=how, image_size=image_size)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.mark.parametrize("name", TIMM)
def test_timm(tmp_path, name):
    theirs = timm_folder(tmp_path / "theirs", **SIZES | TIMM[name])
    size = theirs.patch_embed.img_size
    images = images_of(size)
    expected = theirs_of(theirs, images)
    description, model, params, report = loaded(tmp_path / "theirs", vit_timm.describe_timm)
    assert description.image_size == size and not report.unexpected
    assert_close(jax.jit(model.apply)({"params": params}, images), expected)
    again = back_to_timm(tmp_path / "again", model, params, size, description.preprocessing)
    assert again.state_dict().keys() == theirs.state_dict().keys()
    assert_close(theirs_of(again, images), expected)
    for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
        want = theirs.pretrained_cfg[key]
        assert again.pretrained_cfg[key] == (list(want) if isinstance(want, tuple) else want), key


class LastKernel(torch.nn.Module):
    """What timm had between the pooled features and the head until 2022, by its names."""

    def __init__(self, width, size):
        super().__init__()
        self.fc = torch.nn.Linear(width, size)

    def forward(self, x):
        return torch.tanh(self.fc(x))


def test_bare_file_of_timm(tmp_path):
    """Without config.json, of a width with heads of 64; a checkpoint of training with pre_logits and a rectangle."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer((8, 20), 4, embed_dim=64, depth=1, num_heads=1, mlp_ratio=1, num_classes=5)
    theirs.pre_logits, theirs.fc_norm = LastKernel(64, 12), torch.nn.Identity()
    theirs.head = torch.nn.Linear(12, 5)
    theirs.head_drop = theirs.pre_logits
    randomize(theirs)
    state = {name: values for name, values in theirs.state_dict().items() if "head_drop" not in name}
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    images = images_of((8, 20))
    expected = theirs_of(theirs, images)
    with pytest.raises(ConfigError, match=r"11 positions.*pass image_size"):
        loaded(tmp_path / "checkpoint.pth", vit_timm.describe_timm)
    with pytest.raises(ConfigError, match=r"do not fit image_size=\(8, 8\)"):
        loaded(tmp_path / "checkpoint.pth", vit_timm.describe_timm, {"image_size": 8})
    given = {"image_size": (8, 20)}
    description, model, params, report = loaded(tmp_path / "checkpoint.pth", vit_timm.describe_timm, given)
    assert description.preprocessing == {} and not report.unexpected and not report.ignored
    assert_close(jax.jit(model.apply)({"params": params}, images), expected)


@pytest.mark.parametrize(("units", "patch", "size"), [((2, 1), 1, (40, 24)), ((), 2, (48, 32))])
def test_hybrid_of_timm(tmp_path, units, patch, size):
    theirs = timm_hybrid(units, patch, size)
    torch.save(theirs.state_dict(), tmp_path / "hybrid.bin")
    images = images_of(size)
    expected = theirs_of(theirs, images)
    with pytest.raises(ConfigError, match="pass num_heads"):
        loaded(tmp_path / "hybrid.bin", vit_timm.describe_timm, {"image_size": size})
    given = {"image_size": size, "num_heads": 3}
    _, model, params, report = loaded(tmp_path / "hybrid.bin", vit_timm.describe_timm, given)
    assert model.stem == units and not report.unexpected
    assert_close(jax.jit(model.apply)({"params": params}, images), expected)
    chex.assert_trees_all_equal(export_variables({"params": params}, vit_timm.names_of(model, size)), arrays_of(theirs))


def arrays_of(model):
    return {name: values.numpy() for name, values in model.state_dict().items()}


# Of timm's ViTs: other blocks, no final norm, two heads, positions of registers, other stems, patches beyond the image.
UNLIKE_OURS = re.compile(
    "aimv2|beit3|_rpn_|18x2|_xp_|_d?pwee_|_dlittle_|_dwee_|giant_patch14_((reg4_)?dinov2|reg1_tipsv2)"
    "|radio|intern300m|_distilled_|so150m2?_patch16_reg|test_vit[234]|resnet|_mci_|so400m_patch14_siglip_(gap_)?384"
)


def architectures():
    timm = pytest.importorskip("timm")
    modules = {"vision_transformer", "vision_transformer_hybrid", "deit"}
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.split(".")[-1] in modules]


def test_what_names_of_timm_say_of_architectures():
    """Of every one: heads, activation, epsilon and pooling, which config.json does not say, and a place for every tensor."""
    timm = pytest.importorskip("timm")
    acts = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
    seen = 0
    for name in architectures():
        with torch.device("meta"):
            theirs = timm.create_model(name, depth=1)
        tensors = {key: Tensor(tuple(values.shape), np.float32, None) for key, values in theirs.state_dict().items()}
        config = {"architecture": name, "pretrained_cfg": theirs.pretrained_cfg}
        if UNLIKE_OURS.search(name):
            with pytest.raises(ConfigError):
                imported(vit_timm.describe_timm(config, tensors), tensors)
            continue
        description, block = vit_timm.describe_timm(config, tensors), theirs.blocks[0]
        fields, seen = description.fields, seen + 1
        assert fields["num_heads"] == block.attn.num_heads, name
        assert fields["act"] == acts[type(block.mlp.act).__name__], name
        assert fields["norm_eps"] == block.norm1.eps, name
        assert fields["pool"] == {"avg": "gap"}.get(theirs.global_pool, theirs.global_pool), name
        assert fields["norm_pooled"] == (type(theirs.fc_norm).__name__ != "Identity"), name
        assert description.image_size == theirs.pretrained_cfg["input_size"][1:], name
        shapes = flatten_dict(variable_shapes(description.create_model(), description.image_size), sep="/")
        table = entries(description.names, {path: leaf.shape for path, leaf in shapes.items()})
        assert {entry.theirs for entry in table} == tensors.keys(), name
        crops_squashed = theirs.pretrained_cfg.get("crop_mode") == "squash" and theirs.pretrained_cfg["crop_pct"] < 1
        assert description.preprocessing.get("mean") == (None if crops_squashed else theirs.pretrained_cfg["mean"]), (
            name
        )
    assert seen > 130


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"blocks.0.attn.q_norm.weight": (8,)}, "another architecture.*blocks.0.attn.q_norm"),
        ({"dist_token": (1, 1, 64)}, "dist_token.*distilled"),
        ({"norm_pre.weight": (64,), "norm_pre.bias": (64,)}, "pass act"),
        ({"blocks.2.norm1.weight": (64,)}, "2 blocks.*0 to 1"),
        ({"reg_token": (1, 1, 64), "pos_embed": (1, 6, 64)}, "positions of registers"),
        ({"attn_pool.latent": (1, 1, 64)}, "leaves out cls and registers"),
        ({"patch_embed.proj.weight": None}, "patch_embed.proj.weight"),
        ({"patch_embed.proj.weight": (64, 48)}, "not one of 4 axes"),
    ],
)
def test_files_of_other_architectures_are_refused(names, words):
    shapes = {
        "patch_embed.proj.weight": (64, 3, 4, 4),
        "blocks.0.mlp.fc1.weight": (64, 64),
        "cls_token": (1, 1, 64),
        "pos_embed": (1, 5, 64),
        **names,
    }
    tensors = {name: Tensor(shape, np.float32, None) for name, shape in shapes.items() if shape}
    with pytest.raises(ConfigError, match=words) as error:
        imported(vit_timm.describe_timm(None, tensors), tensors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pool": "gap"}, "pool='gap'"),
        ({"num_registers": 2}, "num_registers=2"),
        ({"pre_norm": True}, "pre_norm=True"),
        ({"representation_size": 7}, "representation_size=7"),
        ({"posemb": "learn_2d"}, "posemb='learn_2d'"),
    ],
)
def test_models_that_transformers_cannot_be_are_not_written(fields, words):
    with pytest.raises(ConfigError, match=words):
        vit.config_transformers(ViT(5, **fields), (224, 224))
