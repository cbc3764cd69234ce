"""MAE's files of transformers and facebookresearch: the originals' outputs, in and out."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import MAE
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families import mae
from vision_jax.weights.mapping import export_variables
from vision_jax.weights.readers import open_tensors, unwrap

torch = pytest.importorskip("torch")
from originals import assert_close, images_of, load  # noqa: E402
from vit_peers import drawn, loaded, randomize, theirs_of  # noqa: E402


def fix_positions(model, grid):
    """MAE's table in place of the random numbers: transformers 5 leaves the decoder's at zero, which files are not."""
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith(("position_embeddings", "pos_embed")):
                values.copy_(torch.from_numpy(sincos2d(grid, values.shape[-1], prefix=1)))
    return model


def mae_of_transformers(kind, size=24, patch=4, **config):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        **{
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 51,
            "image_size": size,
            "patch_size": patch,
            "decoder_hidden_size": 20,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 5,
            "decoder_intermediate_size": 30,
            **config,
        }
    )
    return fix_positions(randomize(getattr(transformers, kind)(config)), (size // patch, size // patch))


def noise_of(count, batch=2):
    return np.random.default_rng(2).random((batch, count), np.float32)


def same_reconstruction(ours, params, theirs, images, noise):
    expected = theirs_of(theirs, images, noise=torch.from_numpy(noise))
    loss, prediction, mask = jax.jit(ours.apply)({"params": params}, images, noise)
    np.testing.assert_array_equal(mask, expected.mask)
    assert_close(prediction, expected.logits)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "config"),
    [
        (24, 4, {}),
        (35, 5, {"norm_pix_loss": True, "mask_ratio": 0.6, "layer_norm_eps": 1e-6, "hidden_act": "relu"}),
    ],
)
def test_pretraining_of_transformers(tmp_path, size, patch, config):
    transformers = pytest.importorskip("transformers")
    theirs = mae_of_transformers("ViTMAEForPreTraining", size, patch, **config)
    theirs.save_pretrained(tmp_path / "theirs")
    images, noise = images_of((size, size)), noise_of((size // patch) ** 2)
    description, model, params, report = loaded(tmp_path / "theirs", mae.describe_transformers)
    assert isinstance(model, MAE) and description.image_size == (size, size)
    assert not report.unexpected
    assert sorted(report.ignored) == ["decoder.decoder_pos_embed", "vit.embeddings.position_embeddings"]
    same_reconstruction(model, params, theirs, images, noise)
    vj.save_pretrained(tmp_path / "again", model, {"params": params}, image_size=size)
    again, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values()), info
    same_reconstruction(model, params, again.eval(), images, noise)


@pytest.mark.parametrize("is_original", [True, False])
@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTMAEForPreTraining"])
def test_encoder_of_transformers(tmp_path, kind, is_original):
    """Positions are the file's own, whatever they are; nothing is masked, and noise keeps the patches in their order."""
    theirs = mae_of_transformers(kind, qkv_bias=False, mask_ratio=0.0)
    encoder = getattr(theirs, "vit", theirs)
    with torch.no_grad():
        encoder.embeddings.position_embeddings.mul_(0.5)
    theirs.save_pretrained(tmp_path, save_original_format=is_original)
    images, noise = images_of((24, 24)), torch.arange(36.0).expand(2, 36)
    expected = theirs_of(encoder, images, noise=noise).last_hidden_state
    _, model, params, report = loaded(tmp_path, mae.describe_transformers, {"name": "vit", "pool": "none"})
    assert not report.unexpected and all(name.startswith("decoder.") for name in report.ignored)
    assert_close(jax.jit(model.apply)({"params": params}, images), expected)


def test_decoders_that_ours_is_not_are_refused(tmp_path):
    theirs = mae_of_transformers("ViTMAEForPreTraining")
    with torch.no_grad():
        theirs.decoder.decoder_pos_embed.zero_()
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'decoder.decoder_pos_embed' is not MAE's fixed table.*name='vit'"):
        loaded(tmp_path, mae.describe_transformers)
    with pytest.raises(ConfigError, match="square images"):
        mae.config_transformers(MAE(), (224, 112))


def official_arrays(params, image_size, patch):
    """Parameters of an MAE of ours, path -> array, as facebookresearch's code names and keeps them."""
    arrays = {}

    def linear(theirs, ours):
        arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"] = params[f"{ours}/kernel"].T, params[f"{ours}/bias"]

    def norm(theirs, ours):
        arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"] = params[f"{ours}/scale"], params[f"{ours}/bias"]

    def block(theirs, ours):
        norm(f"{theirs}.norm1", f"{ours}/norm1")
        norm(f"{theirs}.norm2", f"{ours}/norm2")
        parts = [f"{ours}/attn/{part}" for part in ("query", "key", "value")]
        arrays[f"{theirs}.attn.qkv.weight"] = np.concatenate([params[f"{part}/kernel"].T for part in parts])
        arrays[f"{theirs}.attn.qkv.bias"] = np.concatenate([params[f"{part}/bias"] for part in parts])
        linear(f"{theirs}.attn.proj", f"{ours}/attn/out")
        linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1")
        linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2")

    grid = tuple(side // patch for side in image_size)
    arrays["cls_token"] = params["cls_token"]
    arrays["pos_embed"] = sincos2d(grid, params["cls_token"].shape[-1], prefix=1)
    arrays["patch_embed.proj.weight"] = params["patch_embed/kernel"].transpose(3, 2, 0, 1)
    arrays["patch_embed.proj.bias"] = params["patch_embed/bias"]
    for i in range(2):
        block(f"blocks.{i}", f"blocks_{i}")
    norm("norm", "norm")
    if "decoder/mask_token" in params:
        arrays["mask_token"] = params["decoder/mask_token"]
        arrays["decoder_pos_embed"] = sincos2d(grid, params["decoder/mask_token"].shape[-1], prefix=1)
        block("decoder_blocks.0", "decoder/blocks_0")
        linear("decoder_embed", "decoder/embed")
        linear("decoder_pred", "decoder/pred")
        norm("decoder_norm", "decoder/norm")
    return arrays


def save(path, arrays):
    """As the official code does, with what training leaves beside the model."""
    model = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    torch.save({"model": model, "epoch": 799, "scaler": {"scale": 1.0}}, path)


@pytest.fixture(scope="module")
def official():
    """Our MAE for images of 12 x 12, its random parameters, and the official arrays of them."""
    ours = MAE(4, 64, 2, 1, 40, 16, 1, 2, 24, norm_pix_loss=True)
    params = drawn(ours, (12, 12))
    return ours, params, official_arrays(params, (12, 12), 4)


def test_official_file_with_decoder(tmp_path, official):
    ours, params, arrays = official
    save(tmp_path / "full.pth", arrays)
    with pytest.raises(ConfigError, match="pass decoder_num_heads"):
        loaded(tmp_path / "full.pth", mae.describe_official)
    with pytest.raises(ConfigError, match="pass norm_pix_loss"):
        loaded(tmp_path / "full.pth", mae.describe_official, {"decoder_num_heads": 2})
    given = {"decoder_num_heads": 2, "norm_pix_loss": True}
    description, model, got, report = loaded(tmp_path / "full.pth", mae.describe_official, given)
    assert model == ours and description.image_size == (12, 12)
    assert sorted(report.ignored) == ["decoder_pos_embed", "pos_embed"] and not report.unexpected
    jax.tree.map(np.testing.assert_array_equal, got, unflatten_dict(params, sep="/"))
    again = export_variables({"params": got}, description.names) | mae.constants_official(model, (12, 12))
    assert again.keys() == arrays.keys()
    jax.tree.map(np.testing.assert_array_equal, again, arrays)


def timm_vit(**fields):
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(12, 4, embed_dim=64, depth=2, num_heads=1, mlp_ratio=40 / 64, **fields)


def test_official_encoders_of_both_files_are_timm_s(tmp_path, official):
    """The official encoder is timm's VisionTransformer: the class token of its last norm is the feature."""
    arrays = official[2]
    encoder = {name: values for name, values in arrays.items() if "decoder" not in name and name != "mask_token"}
    theirs = timm_vit(num_classes=0)
    theirs.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in encoder.items()})
    images = images_of((12, 12))
    expected = theirs_of(theirs.eval(), images)
    save(tmp_path / "encoder.pth", encoder)
    save(tmp_path / "full.pth", arrays)
    for name, given, dropped in (("encoder", None, 0), ("full", {"name": "vit"}, len(arrays) - len(encoder))):
        description, model, params, report = loaded(tmp_path / f"{name}.pth", mae.describe_official, given)
        assert not report.unexpected and len(report.ignored) == dropped
        assert_close(jax.jit(model.apply)({"params": params}, images), expected)
        assert mae.is_official(unwrap(open_tensors(tmp_path / f"{name}.pth")))
        assert description.preprocessing["mean"] == (0.485, 0.456, 0.406)
        assert description.preprocessing["eval_crop"] == 0.875


@pytest.mark.parametrize("global_pool", ["avg", "token"])
def test_fine_tuned_official_files_are_timm_s(tmp_path, global_pool):
    """Positions are learned by then, as all else; `fc_norm` stands for `norm` where patches are averaged."""
    theirs = randomize(
        timm_vit(num_classes=5, global_pool=global_pool, norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6))
    )
    torch.save({"model": theirs.state_dict()}, tmp_path / "finetuned.pth")
    images = images_of((12, 12))
    _, model, params, report = loaded(tmp_path / "finetuned.pth", mae.describe_official)
    assert not report.unexpected and not report.ignored and model.num_classes == 5
    assert not mae.is_official(unwrap(open_tensors(tmp_path / "finetuned.pth")))
    assert_close(jax.jit(model.apply)({"params": params}, images), theirs_of(theirs, images))


def test_linear_probe_of_official_files(tmp_path):
    """Its head is BatchNorm1d without parameters and a Linear (main_linprobe.py)."""
    theirs = timm_vit(num_classes=5, norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6))
    theirs.head = torch.nn.Sequential(torch.nn.BatchNorm1d(64, affine=False, eps=1e-6), theirs.head)
    randomize(theirs).head[0].running_var.abs_()
    torch.save({"model": theirs.state_dict()}, tmp_path / "probe.pth")
    images = images_of((12, 12))
    model, variables, _ = load(mae.describe_official, tmp_path / "probe.pth", images)
    assert_close(jax.jit(model.apply)(variables, images), theirs_of(theirs, images))
