"""Random models of the original libraries in the files that they publish, and what they make of the same inputs."""

import argparse
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vision_jax as vj
from vision_jax.models import CLIP, Swin, ViT

torch = pytest.importorskip("torch")
import test_clip_weights as clip_peers  # noqa: E402
import test_google_weights as google_peers  # noqa: E402
import test_mae_weights as mae_peers  # noqa: E402
import test_swin_weights as swin_peers  # noqa: E402
import test_vit_weights as vit_peers  # noqa: E402
from openai_names import openai_names  # noqa: E402
from originals import images_of, init, redrawn, run  # noqa: E402
from vit_peers import drawn, randomize  # noqa: E402

CLASSES = ("ant", "bee", "cat", "dog", "emu")


class Original(NamedTuple):
    path: pathlib.Path
    inputs: tuple  # images, and tokens of a CLIP or noise of an MAE
    expected: tuple  # what the original library makes of them
    arguments: Mapping[str, Any] = types.MappingProxyType({})  # of load_pretrained: what the file does not say


def run_ours(model, variables, inputs) -> tuple:
    outputs = jax.jit(model.apply)(variables, *inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def encode(model, variables, images):
    return jax.jit(lambda *inputs: vj.encode(model, *inputs))(variables, images)


def run_transformers(model, inputs, **options) -> tuple:
    """What ours gives, too, of any of its models."""
    images, *more = (torch.from_numpy(x) for x in inputs)
    images, kind = images.permute(0, 3, 1, 2), type(model).__name__
    with torch.no_grad():
        if kind == "CLIPModel":
            out = model(more[0].long(), images, **options)
            return out.image_embeds, out.text_embeds, model.logit_scale.exp()
        if kind.startswith("ViTMAE"):
            out = model(images, noise=more[0] if more else None, **options)
            return (out.loss, out.logits, out.mask) if "loss" in out else (out.last_hidden_state,)
        out = model(images, **options)
    return (out.logits if "logits" in out else out.pooler_output,)


def load_with_transformers(folder):
    """The model that its config.json names, every parameter of it in the file."""
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def transformers_vit(folder, **config):
    theirs = vit_peers.vit_of_transformers(id2label=dict(enumerate(CLASSES)), layer_norm_eps=1e-6, **config)
    theirs.save_pretrained(folder)
    inputs = (images_of(theirs.config.image_size),)
    return Original(folder, inputs, run_transformers(theirs, inputs))


def transformers_vit_model(folder):
    theirs = vit_peers.vit_of_transformers("ViTModel")
    theirs.save_pretrained(folder)
    inputs = (images_of((32, 32)),)
    return Original(folder, inputs, run_transformers(theirs, inputs))


def transformers_mae(folder):
    theirs = mae_peers.mae_of_transformers("ViTMAEForPreTraining", norm_pix_loss=True)
    theirs.save_pretrained(folder)
    inputs = images_of((24, 24)), mae_peers.noise_of(36)
    return Original(folder, inputs, run_transformers(theirs, inputs))


def transformers_mae_model(folder):
    """Nothing masked, in the order of the patches."""
    theirs = mae_peers.mae_of_transformers("ViTMAEModel", mask_ratio=0.0)
    theirs.save_pretrained(folder)
    images, noise = images_of((24, 24)), np.tile(np.arange(36, dtype=np.float32), (2, 1))
    return Original(folder, (images,), run_transformers(theirs, (images, noise)), {"pool": "none"})


def transformers_swin(folder, version=1):
    sizes = swin_peers.SIZES | {"image_size": 32, "window_size": 4}
    theirs = redrawn(swin_peers.of_transformers(version, **sizes))
    theirs.config.id2label = dict(enumerate(CLASSES))
    theirs.save_pretrained(folder)
    inputs = (images_of((32, 32)),)
    return Original(folder, inputs, run_transformers(theirs, inputs))


def transformers_clip(folder, files="safetensors"):
    theirs = redrawn(clip_peers.of_transformers())
    theirs.save_pretrained(folder, max_shard_size="20KB" if files == "sharded" else "1GB")
    shards = [*folder.glob("model*.safetensors")]
    assert len(shards) == 1 or (files == "sharded" and (folder / "model.safetensors.index.json").is_file())
    if files == "bin":
        shards[0].unlink()
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    inputs = images_of((35, 35)), clip_peers.texts()
    return Original(folder, inputs, run_transformers(theirs, inputs))


def of_timm(theirs, path, arguments=None):
    images = images_of(theirs.patch_embed.img_size)
    return Original(path, (images,), (run(theirs, images),), arguments or {})


def timm_vit(folder):
    fields = vit_peers.SIZES | {"img_size": (12, 20), "init_values": 0.1}
    return of_timm(vit_peers.timm_folder(folder, **fields), folder)


def timm_swin(folder):
    timm = pytest.importorskip("timm")
    theirs = redrawn(timm.create_model("swin_tiny_patch4_window7_224", **SWIN_OF_TIMM, img_size=32, window_size=4))
    theirs.pretrained_cfg = theirs.pretrained_cfg | {"input_size": (3, 32, 32)}
    timm.models.save_for_hf(theirs, folder)
    return of_timm(theirs, folder)


SWIN_OF_TIMM = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "patch_size": 2, "num_classes": 5}


def bare_vit_of_timm(folder, size=16):
    from timm.models.vision_transformer import VisionTransformer

    theirs = randomize(VisionTransformer(size, 4, embed_dim=64, depth=1, num_heads=1, num_classes=5))
    pytest.importorskip("safetensors.torch").save_file(theirs.state_dict(), folder / "bare.safetensors")
    return of_timm(theirs, folder / "bare.safetensors")


def bare_swin_v2_of_timm(folder):
    """Its window is in no tensor: what is wished for is taken for the file's."""
    timm = pytest.importorskip("timm")
    theirs = redrawn(timm.create_model("swinv2_tiny_window8_256", **SWIN_OF_TIMM, img_size=32, window_size=4))
    torch.save({"state_dict": theirs.state_dict()}, folder / "bare.pth")
    return of_timm(theirs, folder / "bare.pth", {"window": 4, "image_size": 32})


def of_open_clip(folder):
    theirs = clip_peers.of_open_clip(clip_peers.OPEN_CLIP["QuickGELU"], folder / "model")
    inputs = images_of((20, 20)), clip_peers.texts()
    return Original(folder / "model", inputs, tuple(run(theirs, *inputs)[:3]))


def load_with_open_clip(path):
    """OpenAI's file, with its own function for it."""
    build = pytest.importorskip("open_clip.model").build_model_from_openai_state_dict
    state = torch.load(path, weights_only=True)
    theirs = build(dict(state), cast_dtype=torch.float32).float().eval()
    numbers = ("input_resolution", "context_length", "vocab_size")
    theirs.load_state_dict({name: value for name, value in state.items() if name not in numbers})  # not in float16
    return theirs


def openai(folder, tower="ViT", is_script=False):
    """By names spelled out after openai/CLIP."""
    image, size = {"patch_size": 8, "width": 128, "depth": 2, "num_heads": 2, "mlp_dim": 512, "norm_eps": 1e-5}, 24
    image, name = {**image, "act": "quick_gelu", "pre_norm": True, "patch_bias": False}, "vit"
    if tower == "ResNet":
        image, name, size = {"blocks": (2, 1, 1, 1), "width": 8}, "modified_resnet", 64
    fields = {"embed_dim": 16, "text_width": 64, "text_depth": 2, "text_num_heads": 1}
    fields |= {"vocab_size": clip_peers.VOCABULARY, "context_length": clip_peers.LENGTH}
    ours = CLIP(name, image, image_projection_bias=tower == "ResNet", **fields)
    inputs = images_of((size, size)), clip_peers.texts()
    state = openai_names(init(ours, *inputs), tower)
    state |= {"input_resolution": size, "context_length": clip_peers.LENGTH, "vocab_size": clip_peers.VOCABULARY}
    state = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save(state, folder / "clip.pt")
    expected = tuple(run(load_with_open_clip(folder / "clip.pt"), *inputs)[:3])
    if is_script:
        torch.jit.save(torch.jit.script(module_of(state)), folder / "clip.pt")
    return Original(folder / "clip.pt", inputs, expected)


def module_of(state):
    """A module with these tensors by their dotted names."""
    root = torch.nn.Module()
    for name, value in state.items():
        module, (*parents, leaf) = root, name.split(".")
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, torch.nn.Module())
            module = module._modules[parent]
        module.register_buffer(leaf, value)
    return root


def google(folder):
    params = drawn(ViT(5, 4, 24, 2, 3, 48), (16, 16))
    np.savez(folder / "weights.npz", **google_peers.google_arrays(params, 3))
    theirs = google_peers.timm_reading_google(folder / "weights.npz", 3, (16, 16), 4, {})
    return of_timm(theirs, folder / "weights.npz")


def facebook_mae(folder):
    """transformers' model under the names of facebookresearch, with the arguments of its training."""
    sizes = {"layer_norm_eps": 1e-6, "norm_pix_loss": True, "decoder_num_hidden_layers": 1}
    theirs = mae_peers.mae_of_transformers("ViTMAEForPreTraining", **sizes)
    theirs.save_pretrained(folder / "transformers")
    params = flatten_dict(vj.load_pretrained(folder / "transformers")[1]["params"], sep="/")
    arrays = mae_peers.official_arrays({name: np.asarray(x) for name, x in params.items()}, (24, 24), 4)
    model = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    args = argparse.Namespace(norm_pix_loss=True, mask_ratio=0.75, model="mae_tiny", output_dir=pathlib.Path("out"))
    torch.save({"model": model, "optimizer": {"state": {}}, "epoch": 799, "args": args}, folder / "mae.pth")
    inputs = images_of((24, 24)), mae_peers.noise_of(36)
    expected = run_transformers(theirs, inputs)
    return Original(folder / "mae.pth", inputs, expected, {"num_heads": 3, "decoder_num_heads": 5})


def microsoft_swin(folder):
    timm = pytest.importorskip("timm")
    ours, images = Swin(5, **swin_peers.FIELDS, window=3), images_of((48, 48))
    state = swin_peers.official(init(ours, images)["params"], (12, 6, 3), (3, 3, 3))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    torch.save({"model": tensors, "max_accuracy": 81.2}, folder / "swin.pth")
    sizes = {"embed_dim": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 2), "num_classes": 5}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **sizes, img_size=48, window_size=3).eval()
    theirs.load_state_dict(timm.models.swin_transformer.checkpoint_filter_fn(tensors, theirs))
    return of_timm(theirs, folder / "swin.pth")


ORIGINALS = {
    "transformers ViT": transformers_vit,
    "transformers ViTModel": transformers_vit_model,
    "transformers ViTMAE": transformers_mae,
    "transformers ViTMAEModel": transformers_mae_model,
    "transformers Swin": transformers_swin,
    "transformers Swinv2": lambda folder: transformers_swin(folder, 2),
    "transformers CLIP": transformers_clip,
    "transformers CLIP, .bin": lambda folder: transformers_clip(folder, "bin"),
    "transformers CLIP, sharded": lambda folder: transformers_clip(folder, "sharded"),
    "timm ViT": timm_vit,
    "timm Swin": timm_swin,
    "timm ViT, bare": bare_vit_of_timm,
    "timm Swin V2, bare": bare_swin_v2_of_timm,
    "open_clip": of_open_clip,
    "OpenAI ViT": openai,
    "OpenAI ResNet": lambda folder: openai(folder, "ResNet"),
    "OpenAI TorchScript": lambda folder: openai(folder, is_script=True),
    "Google ViT": google,
    "facebookresearch MAE": facebook_mae,
    "microsoft Swin": microsoft_swin,
}
