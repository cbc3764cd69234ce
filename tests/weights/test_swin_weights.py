"""Files of Swin, V1 and V2, by transformers, timm and in microsoft's names: read, run, and written for the original."""

import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import Swin, create_model
from vision_jax.weights.families import swin, swin_timm
from vision_jax.weights.mapping import export_variables
from vision_jax.weights.readers import open_tensors

torch = pytest.importorskip("torch")
from originals import assert_close, images_of, imported, init, load, redrawn, run, save  # noqa: E402


def of_transformers(version, classes=5, **fields):
    transformers = pytest.importorskip("transformers")
    kind = "Swin" if version == 1 else "Swinv2"
    config = getattr(transformers, f"{kind}Config")(**fields, num_labels=classes)
    return getattr(transformers, f"{kind}{'ForImageClassification' if classes else 'Model'}")(config)


def run_ours(model, variables, images):
    """Logits, and the map of every stage."""
    both = jax.jit(lambda *inputs: (model.apply(*inputs), model.apply(*inputs, method="features")))
    return both(variables, images)


SIZES = {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "patch_size": 2, "mlp_ratio": 2.5}
TRANSFORMERS = {
    "V1": (1, {"image_size": 32, "window_size": 4}),
    "V1, padded, oblong": (1, {"image_size": [26, 42], "window_size": 4, "qkv_bias": False, "hidden_act": "relu"}),
    "V2": (2, {"image_size": 32, "window_size": 4, "hidden_act": "gelu_new"}),
    "V2, windows shrink": (2, {"image_size": [16, 40], "window_size": 6, "qkv_bias": False}),
    "V2, fine-tuned from another window": (2, {"image_size": 32, "window_size": 8, "pretrained_window_sizes": [6, 3]}),
}


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_transformers(case, tmp_path):
    version, fields = TRANSFORMERS[case]
    theirs = redrawn(of_transformers(version, **SIZES, **fields))
    theirs.save_pretrained(tmp_path / "theirs")
    size = theirs.config.image_size
    images = images_of((size, size) if isinstance(size, int) else size)
    model, variables, described = load(swin.describe_transformers, tmp_path / "theirs", images)
    assert described.image_size == images.shape[1:3]
    expected = run(theirs, images, output_hidden_states=True)
    logits = expected.logits
    ours, maps = run_ours(model, variables, images)
    assert_close(ours, logits)
    assert_close(maps[-1].transpose(0, 3, 1, 2), expected.reshaped_hidden_states[-1])

    vj.save_pretrained(tmp_path / "ours", model, variables, image_size=described.image_size)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_close(run(again.eval(), images).logits, logits)


@pytest.mark.parametrize("version", [1, 2])
def test_transformers_without_a_head_and_in_the_names_of_its_modules(version, tmp_path):
    theirs = redrawn(of_transformers(version, classes=0, **SIZES, image_size=32, window_size=4))
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    images = images_of((32, 32))
    model, variables, _ = load(swin.describe_transformers, tmp_path, images)
    pooled = run(theirs, images).pooler_output
    assert_close(jax.jit(model.apply)(variables, images), pooled)
    vj.save_pretrained(tmp_path / "ours", model, variables, image_size=32)
    assert_close(run(type(theirs).from_pretrained(tmp_path / "ours").eval(), images).pooler_output, pooled)


TIMM = {
    "V1": ("swin_tiny_patch4_window7_224", {"img_size": 56, "window_size": 7, "patch_size": 2}),
    "V1, oblong": ("swin_tiny_patch4_window7_224", {"img_size": (16, 48), "window_size": 4, "patch_size": 2}),
    "V1, windows shrink": (
        "swin_base_patch4_window12_384",
        {"img_size": (48, 16), "window_size": 12, "qkv_bias": False},
    ),
    "V1, oblong windows": (
        "swin_tiny_patch4_window7_224",
        {"img_size": (32, 24), "window_size": (4, 3), "patch_size": 2},
    ),
    "V2": ("swinv2_tiny_window8_256", {"img_size": 32, "window_size": 4, "patch_size": 2}),
    "V2, sizes by name": ("swinv2_base_window12to16_192to256", {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}),
}


@pytest.mark.parametrize("case", TIMM)
def test_timm(case, tmp_path):
    timm = pytest.importorskip("timm")
    name, fields = TIMM[case]
    fields = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "mlp_ratio": 2.5, "num_classes": 5, **fields}
    theirs = redrawn(timm.create_model(name, **fields))
    folder = tmp_path / "theirs"
    timm.models.save_for_hf(theirs, folder, safe_serialization=True)
    images = images_of(theirs.patch_embed.img_size, count=1)
    model, variables, described = load(swin_timm.describe_timm, folder, images)
    assert described.image_size == images.shape[1:3]
    assert described.preprocessing["eval_crop"] == theirs.pretrained_cfg["crop_pct"]
    logits = run(theirs, images)
    ours, maps = run_ours(model, variables, images)
    assert_close(ours, logits)
    stages = run(theirs.forward_intermediates, images, intermediates_only=True)
    for ours, their in zip(maps, stages, strict=True):
        assert_close(ours.transpose(0, 3, 1, 2), their)

    how = vj.Preprocessing(described.image_size, **described.preprocessing)
    vj.save_pretrained(tmp_path / "ours", model, variables, "timm", preprocessing=how)
    again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert_close(run(again, images), logits)
    assert again.pretrained_cfg["crop_pct"] == theirs.pretrained_cfg["crop_pct"]


STANDARD = {
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_b_w12": "swin_base_patch4_window12_384",
    "swinv2_s_w16": "swinv2_small_window16_256",
    "swinv2_l_w12to24": "swinv2_large_window12to24_192to384",
}


@pytest.mark.parametrize("name", STANDARD)
def test_standard_models_of_timm_are_ours(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        tensors = timm.create_model(STANDARD[name]).state_dict()
    described = swin_timm.describe_timm({"architecture": f"{STANDARD[name]}.ms_in1k"}, tensors)
    model = described.create_model(window_rule="square", mask_padding=True)
    assert model == create_model(name)
    assert described.image_size == (int(STANDARD[name].split("to")[-1].split("_")[-1]),) * 2


def test_bare_files_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    fields = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 0, "patch_size": 2}
    theirs = redrawn(timm.create_model("swin_tiny_patch4_window7_224", **fields, img_size=24, window_size=12))
    torch.save(theirs.state_dict(), tmp_path / "v1.pth")
    images = images_of((24, 24))
    model, variables, described = load(swin_timm.describe_timm, tmp_path / "v1.pth", images)
    assert (model.window, described.image_size, described.preprocessing) == (12, (24, 24), {})
    assert_close(jax.jit(model.apply)(variables, images), run(theirs, images))

    theirs = redrawn(timm.create_model("swinv2_tiny_window8_256", **fields, img_size=32, window_size=4))
    torch.save(theirs.state_dict(), tmp_path / "v2.pth")
    images = images_of((32, 32))
    with pytest.raises(ConfigError, match="pass window"):
        load(swin_timm.describe_timm, tmp_path / "v2.pth", images)
    model, variables, _ = load(swin_timm.describe_timm, tmp_path / "v2.pth", images, window=4, image_size=(32, 32))
    assert_close(jax.jit(model.apply)(variables, images), run(theirs, images))


def official(params, maps, windows, pretrained=None):
    """Arrays by the names of microsoft/Swin-Transformer, buffers included, of our parameters."""
    state = {}

    def linear(name, layer):
        state[f"{name}.weight"] = layer["kernel"].T
        if "bias" in layer:
            state[f"{name}.bias"] = layer["bias"]

    def norm(name, layer):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer["scale"], layer["bias"]

    kernel = params["patch_embed"]["kernel"]
    state["patch_embed.proj.weight"] = kernel.transpose(3, 2, 0, 1)
    state["patch_embed.proj.bias"] = params["patch_embed"]["bias"]
    norm("patch_embed.norm", params["patch_norm"])
    for s, (side, window) in enumerate(zip(maps, windows, strict=True)):
        stage = params[f"stages_{s}"]
        for b in range(sum(name.startswith("blocks") for name in stage)):
            block, name = stage[f"blocks_{b}"], f"layers.{s}.blocks.{b}"
            attn, own = block["attn"], f"{name}.attn"
            state[f"{own}.qkv.weight"] = np.vstack([attn[part]["kernel"].T for part in ("query", "key", "value")])
            state[f"{own}.relative_position_index"] = np.zeros((window**2, window**2), np.int64)
            if b % 2 and side > window:
                state[f"{name}.attn_mask"] = np.zeros(((side // window) ** 2, window**2, window**2), np.float32)
            if pretrained is None:
                state[f"{own}.qkv.bias"] = np.hstack([attn[part]["bias"] for part in ("query", "key", "value")])
                table = attn["relative_position_bias_table"]
                edge = len(table) // 2 + 1 - window
                table = table[edge : len(table) - edge, edge : len(table) - edge]
                state[f"{own}.relative_position_bias_table"] = table.reshape(-1, table.shape[-1])
            else:
                state[f"{own}.q_bias"], state[f"{own}.v_bias"] = attn["query"]["bias"], attn["value"]["bias"]
                state[f"{own}.logit_scale"] = attn["logit_scale"][:, None, None]
                linear(f"{own}.cpb_mlp.0", attn["cpb_mlp"]["hidden"])
                linear(f"{own}.cpb_mlp.2", attn["cpb_mlp"]["out"])
                offsets = np.arange(1 - window, window) / (pretrained[s] - 1) * 8
                offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.log2(8)
                coordinates = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1)[None]
                state[f"{own}.relative_coords_table"] = coordinates.astype(np.float32)
            linear(f"{own}.proj", attn["out"])
            for part in ("norm1", "norm2"):
                norm(f"{name}.{part}", block[part])
            for part in ("fc1", "fc2"):
                linear(f"{name}.mlp.{part}", block["mlp"][part])
        if "downsample" in stage:
            linear(f"layers.{s}.downsample.reduction", stage["downsample"]["reduction"])
            norm(f"layers.{s}.downsample.norm", stage["downsample"]["norm"])
    norm("norm", params["norm"])
    linear("head", params["head"])
    return state


FIELDS = {"width": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 2)}


@pytest.mark.parametrize(
    ("version", "window", "windows", "pretrained"),
    [(1, 3, (3, 3, 3), None), (1, 6, (6, 6, 3), None), (2, 6, (6, 6, 3), (4, 4, 2))],
)
def test_official(version, window, windows, pretrained, tmp_path):
    timm = pytest.importorskip("timm")
    ours = Swin(5, **FIELDS, version=version, window=window, pretrained_window=pretrained)
    images = images_of((48, 48))
    params = init(ours, images)["params"]
    expected = jax.jit(ours.apply)({"params": params}, images)
    state = official(params, (12, 6, 3), windows, pretrained)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    torch.save({"model": tensors, "max_accuracy": 81.2, "epoch": 299}, tmp_path / "swin.pth")

    model, variables, described = load(swin_timm.describe_official, tmp_path / "swin.pth", images)
    assert (model.window, model.pretrained_window, described.image_size) == (window, pretrained, (48, 48))
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, images), expected)

    name = "swin_tiny_patch4_window7_224" if version == 1 else "swinv2_tiny_window8_256"
    fields = {"embed_dim": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 2), "num_classes": 5}
    fields |= {"img_size": 48, "window_size": window} | ({"pretrained_window_sizes": pretrained} if pretrained else {})
    theirs = timm.create_model(name, **fields).eval()
    module = timm.models.swin_transformer if version == 1 else timm.models.swin_transformer_v2
    theirs.load_state_dict(module.checkpoint_filter_fn(tensors, theirs))
    assert_close(expected, run(theirs, images))

    save(tmp_path / "again.safetensors", variables, described.names)
    written = open_tensors(tmp_path / "again.safetensors")
    parameters = {name for name in state if not name.endswith(("_index", "_mask", "_coords_table"))}
    assert set(written) == parameters
    for name in parameters:
        np.testing.assert_array_equal(written[name].read(), state[name])


def test_what_is_no_swin_of_ours_is_refused():
    zeros = {name: np.zeros(1) for name in ("absolute_pos_embed", "layers.0.blocks.0.attn.logit_scale")}
    ours = Swin(5, 2, **{**FIELDS, "depths": (2, 2, 2)}, window=3)
    state = export_variables(init(ours, images_of((32, 32))), swin_timm.names_of(ours, (32, 32)))
    for describe, config, tensors, message in (
        (swin_timm.describe_timm, None, {"blocks.0.attn.qkv.weight": np.zeros(1)}, "lacks 'patch_embed.proj.weight'"),
        (swin_timm.describe_official, None, zeros, "absolute"),
        (swin_timm.describe_timm, {"model_args": {"global_pool": "max"}}, state, "global_pool='max'"),
        (swin_timm.describe_timm, {"model_args": {"window_size": [3, 7, 3]}}, state, "every stage has the same window"),
        (swin_timm.describe_timm, {"model_args": {"img_size": 64}}, state, "3x3 do not divide"),
        (swin_timm.describe_timm, None, {**state, "layers.0.blocks.0.gamma": np.zeros(1)}, "another architecture"),
        (swin.describe_transformers, None, {}, "config.json"),
        (swin.describe_transformers, {"model_type": "swin", "layer_norm_eps": 1e-6}, {}, "layer_norm_eps"),
        (swin.describe_transformers, {"model_type": "swin", "use_absolute_embeddings": True}, {}, "absolute"),
    ):
        with pytest.raises(ConfigError, match=message):
            imported(describe(config, tensors), tensors)


def test_what_the_originals_cannot_be_is_not_written():
    for write, fields, size, message in (
        (swin.config_transformers, {"window": 7}, (64, 64), "larger than a map"),
        (swin.config_transformers, {"version": 2, "window": (4, 3), "window_rule": "axis"}, (64, 64), "not square"),
        (swin.config_transformers, {"window": 4}, (72, 72), "padding of windows"),
        (swin.config_transformers, {"norm_eps": 1e-6}, (224, 224), "norm_eps"),
        (swin_timm.config_timm, {"window": 4}, (32, 128), "shrink by axis"),
        (swin_timm.config_timm, {"window": 4, "mask_padding": False}, (72, 72), "pads"),
        (swin_timm.config_timm, {"act": "relu"}, (224, 224), "act"),
    ):
        with pytest.raises(ConfigError, match=message):
            write(Swin(5, **{**FIELDS, **fields}), size)
