import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import vision_jax as vj
import vision_jax.models
from vision_jax.errors import ConfigError

# Parameters with a head of 1,000 classes: vision_transformer's models_test.py; the ResNets as timm's resnet26 and
# resnet50_gn, which have the same convolutions and a scale and bias for each normalised channel; Swin as in the README of
# microsoft/Swin-Transformer and in timm 1.0.31. V2's do not depend on the window.
PARAMETERS = {
    "vit_ti16": 5_717_416,
    "vit_s32": 22_878_952,
    "vit_s16": 22_050_664,
    "vit_b32": 88_224_232,
    "vit_b16": 86_567_656,
    "vit_b8": 86_576_872,
    "vit_l32": 306_535_400,
    "vit_l16": 304_326_632,
    "vit_h14": 632_045_800,
    "vit_r_ti16": 6_337_704,
    "vit_r26_s32": 36_431_912,
    "vit_r26_b32": 101_383_976,
    "vit_r50_b16": 98_659_112,
    "vit_r50_l32": 328_994_856,
    "resnet26": 15_995_176,
    "resnet50": 25_557_032,
    # MAE's published sizes without its two tables of fixed positions, 197 or 257 rows of width + 512.
    "mae_vit_b16": 111_907_840 - 197 * (768 + 512),
    "mae_vit_l16": 329_541_888 - 197 * (1024 + 512),
    "mae_vit_h14": 657_074_508 - 257 * (1280 + 512),
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
    "swin_l": 196_532_476,
    "swin_b_w12": 87_903_584,
    "swin_l_w12": 196_735_516,
    "swinv2_t": 28_347_154,
    "swinv2_s": 49_728_418,
    "swinv2_b": 87_918_816,
    "swinv2_l": 196_739_932,
    "swinv2_t_w16": 28_347_154,
    "swinv2_s_w16": 49_728_418,
    "swinv2_b_w16": 87_918_816,
    "swinv2_b_w12": 87_918_816,
    "swinv2_l_w12": 196_739_932,
    "swinv2_b_w12to16": 87_918_816,
    "swinv2_l_w12to16": 196_739_932,
    "swinv2_b_w12to24": 87_918_816,
    "swinv2_l_w12to24": 196_739_932,
    # CLIP's as of open_clip's and OpenAI's models.
    "clip_rn50": 102_007_137,
    "clip_rn101": 119_688_033,
    "clip_rn50x4": 178_300_601,
    "clip_rn50x16": 290_979_217,
    "clip_rn50x64": 623_258_305,
    "clip_vit_b32": 151_277_313,
    "clip_vit_b16": 149_620_737,
    "clip_vit_l14": 427_616_513,
    "clip_vit_l14_336": 427_944_193,
}
# Pixels a side on which the number of positions depends, where they are not 224.
SIZES = {"clip_rn50x4": 288, "clip_rn50x16": 384, "clip_rn50x64": 448, "clip_vit_l14_336": 336}


@pytest.mark.parametrize("name", vj.list_models())
def test_every_registered_model_has_exactly_these_parameters(name):
    size = SIZES.get(name, 224)
    inputs = [jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)]
    if name.startswith("clip"):
        inputs.append(jax.ShapeDtypeStruct((1, 77), jnp.int32))
    rngs = {"params": jax.random.key(0), "masking": jax.random.key(1)}
    params = jax.eval_shape(vj.create_model(name).init, rngs, *inputs)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_no_row_is_left_over():
    assert sorted(PARAMETERS) == vj.list_models()


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("vit_b17", {}, ["vit_b17", "vit_b16"]),
        ("vit_b16", {"dpeth": 3}, ["dpeth", "depth"]),
        ("vit_b16", {"depth": "3"}, ["depth", "int", "'3'"]),
        ("vit_b16", {"dropout_rate": "high"}, ["dropout_rate", "float", "'high'"]),
        ("resnet50", {"patch_size": 3}, ["patch_size", "known"]),
        ("clip_vit_b23", {}, ["clip_vit_b23", "clip_vit_b32"]),
    ],
)
def test_wrong_names_and_fields_are_named(name, fields, words):
    with pytest.raises(ConfigError) as error:
        vj.create_model(name, **fields)
    assert all(word in str(error.value) for word in words)


def test_the_modules_import_alone():
    """Nothing of training, data or other frameworks comes with them, and no device is touched."""
    code = """
import sys, vision_jax.models, vision_jax
vision_jax.create_model("vit_b16")
heavy = "tensorflow torch tensorflow_datasets orbax grain optax scipy sklearn PIL chex".split()
assert not (found := [name for name in heavy if name in sys.modules]), found
import jax._src.xla_bridge as bridge
assert not bridge._backends, "a device was touched"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_family_stands_for_its_module_s_defaults():
    assert vj.create_model("resnet", width=32) == vj.models.ResNet(width=32)
    assert vj.models.model_fields("modified_resnet")["blocks"] == (3, 4, 6, 3)
    assert not set(vj.models.registry.FAMILIES) & set(vj.list_models())


def test_fields_and_their_defaults():
    fields = vj.models.model_fields("vit_r50_b16")
    assert fields["stem"] == (3, 4, 9) and fields["patch_size"] == 1 and fields["act"] == "gelu_tanh"
    model = vj.create_model("vit_r50_b16", stem=[1, 1], layer_scale_init=1, dtype="bfloat16")
    assert model.stem == (1, 1) and type(model.layer_scale_init) is float
    assert {name: getattr(model, name) for name in fields if name not in ("stem", "layer_scale_init", "dtype")} == {
        name: value for name, value in fields.items() if name not in ("stem", "layer_scale_init", "dtype")
    }
    with pytest.raises(ConfigError, match=r"vit_r50_b17.*vit_r50_b16"):
        vj.models.model_fields("vit_r50_b17")
