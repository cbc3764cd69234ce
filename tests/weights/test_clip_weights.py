"""Files of CLIP by transformers and open_clip, and in OpenAI's names: read, run, and written for the original."""

import json
import re

import chex
import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import CLIP, create_model
from vision_jax.models.text import TextTransformer
from vision_jax.weights.families import clip, clip_openai
from vision_jax.weights.families.open_clip import config_open_clip, describe_open_clip
from vision_jax.weights.mapping import export_variables
from vision_jax.weights.readers import open_tensors, unwrap
from vision_jax.weights.tensors import Tensors

torch = pytest.importorskip("torch")
from openai_names import openai_names  # noqa: E402
from originals import assert_close, images_of, imported, init, load, redrawn, run, save  # noqa: E402

VOCABULARY, LENGTH = 50, 9


def texts(count=3):
    """Start, words, end and padding with zeros; the first text fills its row."""
    rng = np.random.default_rng(2)
    tokens = np.zeros((count, LENGTH), np.int32)
    for row, size in zip(tokens, [LENGTH, *rng.integers(3, LENGTH, count - 1)], strict=True):
        row[:size] = [VOCABULARY - 2, *rng.integers(1, VOCABULARY - 2, size - 2), VOCABULARY - 1]
    return tokens


def of_transformers(act="quick_gelu", text_act="quick_gelu", end=VOCABULARY - 1, eps=1e-5):
    transformers = pytest.importorskip("transformers")
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "hidden_size": 24, "intermediate_size": 50}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 3, "bos_token_id": VOCABULARY - 2, "eos_token_id": end}
    vision = {"image_size": 35, "patch_size": 5, "hidden_size": 20, "intermediate_size": 43, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 5, "hidden_act": act, "layer_norm_eps": eps}
    config = {"projection_dim": 11, "text_config": {**text, "hidden_act": text_act}, "vision_config": vision}
    return transformers.CLIPModel(transformers.CLIPConfig(**config))


@pytest.mark.parametrize("fields", [{}, {"act": "gelu", "text_act": "gelu_new", "end": 2, "eps": 1e-3}])
def test_transformers(fields, tmp_path):
    theirs = redrawn(of_transformers(**fields))
    theirs.save_pretrained(tmp_path / "theirs")
    images, tokens = images_of((35, 35)), texts()
    model, variables, described = load(clip.describe_transformers, tmp_path / "theirs", images, tokens)
    assert described.image_size == (35, 35)
    expected = run(theirs, tokens, images)

    def run_ours(variables):
        hidden = TextTransformer.apply_blocks(model.bind(variables).text_model, tokens)
        features = model.apply(variables, images, method=CLIP.image_features)
        return *model.apply(variables, images, tokens), features, hidden

    image, text, scale, features, hidden = jax.jit(run_ours)(variables)
    assert_close(image, expected.image_embeds)
    assert_close(text, expected.text_embeds)
    assert_close(scale * image @ text.T, expected.logits_per_image)
    assert_close(features, run(theirs.vision_model, images).pooler_output)
    assert_close(hidden, expected.text_model_output.last_hidden_state)

    vj.save_pretrained(tmp_path / "ours", model, variables)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_close(run(again.eval(), tokens, images).logits_per_image, expected.logits_per_image)


def test_old_configs_of_transformers(tmp_path):
    """Their `*_config_dict` counts, and what it does not say is the default; position_ids are in the file."""
    theirs = redrawn(of_transformers())
    theirs.save_pretrained(tmp_path, state_dict=theirs.state_dict())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config_dict"] = {**config["text_config"], "num_attention_heads": 4}
    del config["text_config_dict"]["hidden_act"]
    config["text_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = type(theirs).from_pretrained(tmp_path).eval()
    state = again.state_dict() | {"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    images, tokens = images_of((35, 35)), texts()
    model, variables, _ = load(clip.describe_transformers, tmp_path, images, tokens)
    assert (model.text_num_heads, model.text_act) == (4, "quick_gelu")
    assert_close(jax.jit(model.apply)(variables, images, tokens)[1], run(again, tokens, images).text_embeds)


TEXT = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 2}
VISION = {"image_size": 20, "layers": 2, "width": 32, "head_width": 8, "patch_size": 5}
OPEN_CLIP = {
    "QuickGELU": {"quick_gelu": True, "vision_cfg": {**VISION, "mlp_ratio": 1.37}, "text_cfg": TEXT},
    "GELU, oblong, bias of logits": {
        "init_logit_bias": -10,
        "vision_cfg": {**VISION, "image_size": [20, 30], "norm_kwargs": {"eps": 1e-3}},
        "text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}, "pool_type": "eos", "eos_id": VOCABULARY - 1},
    },
    "as CLIPA": {
        "custom_text": True,
        "vision_cfg": {**VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"},
    },
    "averaged tokens": {"vision_cfg": {**VISION, "pool_type": "avg", "pos_embed_type": "sin_cos_2d"}, "text_cfg": TEXT},
    "ResNet": {
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
        "text_cfg": TEXT,
    },
}


def of_open_clip(config, folder):
    """A model drawn anew, saved in a folder as push_to_hf_hub does."""
    open_clip = pytest.importorskip("open_clip")
    folder.mkdir()
    pipeline = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "interpolation": "bilinear", "resize_mode": "squash"}
    whole = {"model_cfg": {"embed_dim": 16, **config}, "preprocess_cfg": pipeline}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    model = redrawn(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model


@pytest.mark.parametrize("case", OPEN_CLIP)
def test_open_clip(case, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    theirs = of_open_clip(OPEN_CLIP[case], tmp_path / "theirs")
    size = OPEN_CLIP[case]["vision_cfg"]["image_size"]
    images, tokens = images_of(size if isinstance(size, list) else (size, size)), texts()
    model, variables, described = load(describe_open_clip, tmp_path / "theirs", images, tokens)
    assert described.image_size == images.shape[1:3]
    pipeline = {"interpolation": "bilinear", "eval_resize": "squash", "eval_crop": 1.0}
    assert described.preprocessing == {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1), **pipeline}
    expected = run(theirs, images, tokens)
    for ours, their in zip(jax.jit(model.apply)(variables, images, tokens), expected, strict=False):
        assert_close(ours, their)

    how = vj.Preprocessing(described.image_size, **described.preprocessing)
    vj.save_pretrained(tmp_path / "ours", model, variables, "open_clip", preprocessing=how)
    again = open_clip.create_model(f"local-dir:{tmp_path / 'ours'}").eval()
    assert again.visual.preprocess_cfg["resize_mode"] == "squash"
    for ours, their in zip(run(again, images, tokens), expected, strict=True):
        assert_close(ours, their)


def test_training_checkpoints_of_open_clip_need_the_activation(tmp_path):
    theirs = of_open_clip(
        {"vision_cfg": {**VISION, "head_width": 64, "width": 64}, "text_cfg": TEXT}, tmp_path / "theirs"
    )
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": moments}, tmp_path / "epoch_3.pt")
    images, tokens = images_of((20, 20)), texts()
    for given in ({}, {"text_act": "gelu"}):
        with pytest.raises(ConfigError, match="pass text_act" if not given else "pass text_num_heads"):
            load(describe_open_clip, tmp_path / "epoch_3.pt", images, tokens, **given)
    given = {"text_act": "gelu", "text_num_heads": 3}
    model, variables, _ = load(describe_open_clip, tmp_path / "epoch_3.pt", images, tokens, **given)
    expected = run(theirs, images, tokens)
    for ours, their in zip(jax.jit(model.apply)(variables, images, tokens), expected, strict=True):
        assert_close(ours, their)
    tensors = Tensors(tmp_path / "vit_b_32-quickgelu-laion400m_e32.pt", unwrap(open_tensors(tmp_path / "epoch_3.pt")))
    assert describe_open_clip(None, tensors, {"text_num_heads": 3}).fields["text_act"] == "quick_gelu"


@pytest.mark.parametrize("tower", ["ViT", "ResNet"])
def test_openai(tower, tmp_path):
    """A file of OpenAI's names and shapes, written out from our parameters, is open_clip's OpenAI model, too."""
    build = pytest.importorskip("open_clip.model").build_model_from_openai_state_dict
    fields = {"embed_dim": 16, "text_width": 64, "text_depth": 2, "text_num_heads": 1, "vocab_size": VOCABULARY}
    image = {
        "patch_size": 8,
        "width": 128,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 512,
        "act": "quick_gelu",
        "norm_eps": 1e-5,
    }
    image |= {"pre_norm": True, "patch_bias": False, "cls_token": True}
    if tower == "ResNet":
        image, fields = {"blocks": (2, 1, 1, 1), "width": 8}, {**fields, "image_projection_bias": True}
    name = "vit" if tower == "ViT" else "modified_resnet"
    ours = CLIP(name, image, **fields, context_length=LENGTH)
    size = (24, 24) if tower == "ViT" else (64, 64)
    images, tokens = images_of(size), texts()
    variables = init(ours, images, tokens)
    expected = jax.jit(ours.apply)(variables, images, tokens)
    state = openai_names(variables, tower)
    superfluous = {"input_resolution": size[0], "context_length": LENGTH, "vocab_size": VOCABULARY}
    state |= {name: np.int64(value) for name, value in superfluous.items()}
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save(tensors, tmp_path / "clip.pt")
    model, loaded, described = load(clip_openai.describe_official, tmp_path / "clip.pt", images, tokens)
    assert described.image_size == size
    for got, same in zip(jax.jit(model.apply)(loaded, images, tokens), expected, strict=True):
        np.testing.assert_array_equal(got, same)

    theirs = build(dict(tensors), cast_dtype=torch.float32).float().eval()
    tensors = {name: value for name, value in tensors.items() if name not in superfluous}
    theirs.load_state_dict(tensors)  # not in float16
    for got, their in zip(expected, run(theirs, images, tokens), strict=True):
        assert_close(got, their)
    save(tmp_path / "again.safetensors", loaded, described.names)
    written = open_tensors(tmp_path / "again.safetensors")
    assert set(written) == {name for name in state if not name.endswith((*superfluous, "num_batches_tracked"))}
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor.read(), state[name])


STANDARD = {"clip_rn50x4": "RN50x4", "clip_vit_l14_336": "ViT-L-14-336"}
HEADS = {"clip_rn50x4": (40, 10), "clip_vit_l14_336": (16, 12)}


@pytest.mark.parametrize("name", STANDARD)
def test_openai_s_models_are_ours(name):
    open_clip = pytest.importorskip("open_clip")
    with torch.device("meta"):
        tensors = open_clip.CLIP(**open_clip.get_model_config(STANDARD[name])).state_dict()
    described = clip_openai.describe_official(None, tensors)
    model, registered = described.create_model(scan=True), create_model(name, scan=True)
    size = {"clip_rn50x4": 288, "clip_vit_l14_336": 336}[name]
    assert described.image_size == (size, size)
    inputs = np.zeros((1, size, size, 3), np.float32), np.zeros((1, 77), np.int32)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), *inputs) for m in (model, registered)]
    chex.assert_trees_all_equal_shapes(*shapes)
    for m in (model, registered):
        tower = m.image_module(parent=None)
        heads = tower.heads if name == "clip_rn50x4" else tower.num_heads
        assert (heads, m.text_num_heads) == HEADS[name]
        assert (getattr(tower, "act", m.text_act), m.text_act) == ("quick_gelu", "quick_gelu")
        assert getattr(tower, "norm_eps", 1e-5) == 1e-5


def test_what_is_no_clip_of_ours_is_refused(tmp_path):
    size = {
        "embed_dim": 16,
        "text_width": 64,
        "text_depth": 1,
        "text_num_heads": 1,
        "vocab_size": 50,
        "context_length": 5,
    }
    tower = {
        "patch_size": 8,
        "width": 64,
        "depth": 1,
        "num_heads": 1,
        "mlp_dim": 64,
        "pre_norm": True,
        "patch_bias": False,
    }
    ours = CLIP("vit", tower, **size)
    state = export_variables(init(ours, images_of((24, 16)), texts()[:, :5]), clip_openai.names_of(ours, (24, 16)))
    bare = {name: value for name, value in state.items() if not name.startswith("visual.")}
    for describe, config, file, message in (
        (clip_openai.describe_official, None, {"head.weight": np.zeros(1)}, "lacks 'token_embedding.weight'"),
        (clip_openai.describe_official, None, {**bare, "visual.trunk.cls_token": np.zeros(1)}, "it has visual.trunk"),
        (clip_openai.describe_official, None, state, "6 image positions are those of no square image; pass image_size"),
        (describe_open_clip, None, state, "pass text_act"),
        (describe_open_clip, {"vision_cfg": {"timm_model_name": "vit"}}, state, "timm_model_name='vit'"),
        (describe_open_clip, {"model_cfg": {"multimodal_cfg": {"width": 1}}}, state, "CoCa"),
        (describe_open_clip, {"vision_cfg": {"image_size": [24, 24]}}, state, "not of image_size=(24, 24)"),
        (describe_open_clip, {"text_cfg": {"norm_kwargs": {"eps": 1e-6}}, **SIZE}, state, "epsilon 1e-06"),
        (describe_open_clip, {"text_cfg": {"pool_type": "eos"}, **SIZE}, state, "eos_id=2"),
        (describe_open_clip, SIZE, {**state, "visual.attn_pool.query": np.zeros(1)}, "another architecture"),
        (clip.describe_transformers, None, state, "config.json"),
        (clip.describe_transformers, {"model_type": "clip"}, state, "no CLIPModel"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            imported(describe(config, file), file)
    theirs = of_transformers(end=7)
    with pytest.raises(ConfigError, match="eos_token_id=7"):
        clip.describe_transformers(theirs.config.to_dict(), theirs.state_dict())


SIZE = {"vision_cfg": {"image_size": [24, 16]}}


def test_what_the_originals_cannot_be_is_not_written():
    resnet = {"image_tower": "modified_resnet", "image": {"blocks": (1, 1), "width": 8}, "image_projection_bias": True}
    tower = {"pre_norm": True, "patch_bias": False}
    for write, fields, size, message in (
        (clip.config_transformers, resnet, (64, 64), "not with 'modified_resnet'"),
        (clip.config_transformers, {"image": {}}, (224, 224), "patch_bias"),
        (clip.config_transformers, {"image": tower}, (224, 192), "square images"),
        (clip.config_transformers, {"image": tower, "text_causal": False}, (224, 224), "text_causal"),
        (config_open_clip, resnet, (64, 64), "four stages"),
        (config_open_clip, {"image": {**tower, "act": "gelu"}}, (224, 224), "act='gelu'"),
        (config_open_clip, {"image_tower": "swin_t"}, (224, 224), "not with 'swin_t'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            write(CLIP(**fields), size)
