"""What `vj.load_pretrained` says of sources that it cannot load: one line that names them and what would be right."""

import json
import os
import pickle

import jax
import numpy as np
import pytest
from hand_made import archive

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import MAE, Swin, ViT
from vision_jax.models.inference import variable_shapes
from vision_jax.weights.safetensors import write_safetensors
from vision_jax.weights.sources import open_weights

MODEL = ViT(3, 4, 8, 1, 1, 8, act="gelu")


def drawn(model, size):
    """Random variables of a model."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variable_shapes(model, size))


@pytest.fixture(scope="module")
def variables():
    return drawn(MODEL, (8, 8))


@pytest.fixture
def folder(tmp_path, variables):
    """Of transformers' ViT, as we write it."""
    vj.save_pretrained(tmp_path / "vit", MODEL, variables, class_names=("ant", "bee", "cat"))
    return tmp_path / "vit"


def refused(source, words, **arguments):
    with pytest.raises(ConfigError, match=words) as caught:
        vj.load_pretrained(source, **arguments)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    assert str(source) in str(caught.value), caught.value


def test_no_source(tmp_path):
    refused(tmp_path / "none", "no such file or folder")
    refused("none.safetensors", "no such file or folder, and no id of a model of the hub")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the folder holds none of model.safetensors, .*pytorch_model.bin")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "the file is empty")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "no file of weights")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "weights.npz", "model.pt"])
def test_truncated_files(name, share, tmp_path, folder):
    whole = (folder / "model.safetensors").read_bytes()
    if name == "weights.npz":
        np.savez(tmp_path / name, **{"embedding/kernel": np.ones((2, 2, 3, 8)), "cls": np.ones((1, 1, 8))})
        whole = (tmp_path / name).read_bytes()
    elif name == "model.pt":
        whole = archive(pickle.dumps({"w": 1.0}, 2), {"0": bytes(400)})
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / name, "cut off|empty|no file of weights|damaged")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model_type": "bert"},
            "config.json has model_type='bert'; known of transformers are vit, vit_mae, swin, swinv2, clip",
        ),
        ({"model_type": None}, r"config.json is neither transformers' \(it has no model_type\) nor timm's"),
        ({"hidden_act": "silu"}, "the activation 'silu', which is none of gelu"),
        (
            {"hidden_size": 12},
            r"shapes do not fit: 'vit.embeddings.cls_token' \[1, 1, 8\] for 'cls_token' \[1, 1, 12\] and \d+ more",
        ),
        ({"num_hidden_layers": 2}, "the file lacks 'vit.encoder.layer.1.layernorm_before.weight' and 15 more"),
        ({"num_hidden_layers": 0}, "model field 'depth' must lie between 1 and 1,000, got 0"),
        ({"patch_size": "4"}, "a size must be a positive number, or two for .*, and not '4'"),
        ({"num_attention_heads": 3}, "num_heads=3"),
        ({"image_size": [8, 8, 8]}, r"and not \[8, 8, 8\]"),
        ({"hidden_size": None}, "shapes do not fit.*768"),  # transformers' default
    ],
)
def test_configs_that_are_wrong(change, words, folder):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    refused(folder, words)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "null", '{"a": 1'])
def test_configs_that_are_no_json(text, folder):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json beside it (cannot be read|is no JSON object)")


@pytest.mark.parametrize("text", ['{"resample": 1}', "{", '{"do_normalize": false}'])
def test_pictures_prepared_as_none_are_here_do_not_stop_a_model(text, folder, variables, caplog):
    (folder / "preprocessor_config.json").write_text(text)
    np.testing.assert_array_equal(
        vj.load_pretrained(folder)[1]["params"]["pos_embed"], variables["params"]["pos_embed"]
    )
    assert "the way its pictures are prepared is not supported: preprocessor_config.json" in caplog.text
    with pytest.raises(ConfigError, match="does not say how pictures are prepared"):
        vj.preprocessing(folder)


def test_weights_without_what_tells_what_they_are(folder, tmp_path):
    (folder / "config.json").unlink()
    refused(folder, "weights of transformers need their config.json beside them")
    write_safetensors(tmp_path / "mlp.safetensors", {"fc1.weight": np.ones(3), "fc2.weight": np.ones(3)})
    words = (
        r"its names \('fc1.weight', 'fc2.weight', \.\.\.\) are of no known family and format: ViT, MAE, Swin and CLIP"
    )
    refused(tmp_path / "mlp.safetensors", words)
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 3}))
    write_safetensors(folder / "model.safetensors", {"conv1.weight": np.ones((8, 3, 7, 7))})
    refused(folder, "'resnet50'")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            ViT(3, 4, 24, 1, 3, 24),
            "how many heads there are of width 24 cannot be seen in the file; pass num_heads",
        ),
        (ViT(3, 4, 64, 1, 1, 24, posemb="none"), "no positions, which would show its image size; pass image_size"),
        (Swin(3, 2, 8, (1, 1), (1, 1), 2, version=2), r"does not show its windows; pass window"),
    ],
)
def test_what_a_bare_file_leaves_open(model, words, tmp_path):
    variables = drawn(model, (8, 8))
    vj.save_pretrained(tmp_path, model, variables, "timm", image_size=8)
    (tmp_path / "config.json").unlink()
    refused(tmp_path, words)
    said = {"num_heads": 3} if "num_heads" in words else {"window": 2} if "window" in words else {}
    _, again = vj.load_pretrained(tmp_path, image_size=8, **said)
    np.testing.assert_array_equal(again["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_a_decoder_does_not_say_what_it_predicts(tmp_path):
    """As in facebookresearch's "full" file, which has no arguments of its training."""
    from vision_jax.weights.families import mae, vit_timm
    from vision_jax.weights.mapping import export_variables
    from vision_jax.weights.torch_writer import write_torch

    model = MAE(4, 64, 1, 1, 8, 512, 1, 16, 8)
    arrays = export_variables(drawn(model, (8, 8)), vit_timm.names_timm())
    write_torch(tmp_path / "full.pth", arrays | mae.constants_official(model, (8, 8)))
    refused(tmp_path / "full.pth", "whether its decoder predicts normalised pixels; pass norm_pix_loss")
    assert vj.load_pretrained(tmp_path / "full.pth", norm_pix_loss=True)[0] == model.clone(norm_pix_loss=True)
    how = vj.preprocessing(tmp_path / "full.pth", file={"norm_pix_loss": True})
    assert (how.image_size, how.mean) == ((8, 8), (0.485, 0.456, 0.406))


def test_pickles_that_run_code(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    (tmp_path / "evil.pth").write_bytes(archive(pickle.dumps({"model": {"w": Runs()}}, 2)))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    refused(tmp_path / "evil.pth", r"names '\S*system'.*nothing was run")
    refused(tmp_path, "no file of weights|nothing was run")
    assert not (tmp_path / "marker").exists()


def test_a_model_of_the_hub(folder, monkeypatch):
    """By its id alone, and with a revision: what it has beside its weights comes with them."""
    huggingface_hub, asked = pytest.importorskip("huggingface_hub"), []

    def download(model, name, *, revision, local_files_only):
        asked.append((model, name, revision))
        if not (folder / name).is_file():
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model, _ = vj.load_pretrained("org/vit", revision="v2")
    assert model.num_classes == 3 and {name: (m, r) for m, name, r in asked}["config.json"] == ("org/vit", "v2")
    assert open_weights("hf-hub:org/vit").class_names == ("ant", "bee", "cat")
    assert vj.preprocessing("org/vit").image_size == (8, 8)
    assert {name for _, name, _ in asked} >= {"model.safetensors", "preprocessor_config.json", "vocab.json"}
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot get model.safetensors, or another .* of 'org/vit' from the hub"):
        vj.load_pretrained("org/vit")
