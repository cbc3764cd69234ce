"""Hidden states and attention maps of transformers' models, one by one, and ours from their files."""

import jax
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.ops.posemb import sincos2d
from vision_jax.weights.families import clip, mae, swin, vit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from originals import assert_close, images_of, load, redrawn, run  # noqa: E402

SIZES = {"hidden_size": 24, "intermediate_size": 51, "num_hidden_layers": 2, "num_attention_heads": 3}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def original(kind, config):
    """Drawn anew, with the attention that gives its weights."""
    theirs = redrawn(getattr(transformers, kind)(config))
    theirs.set_attn_implementation("eager")
    return theirs


def ours_of(theirs, describe, folder, *inputs):
    """Everything that our model gives of theirs' file."""
    theirs.save_pretrained(folder)
    model, variables, _ = load(describe, folder, *inputs)
    run = jax.jit(vj.intermediates, static_argnums=0, static_argnames="attention")
    return run(model, variables, *inputs, attention=True)


def by_our_names(theirs, *inputs, prefix="", **options):
    output = run(theirs, *inputs, **EVERYTHING, **options)
    states = {f"{prefix}embed": output.hidden_states[0]}
    for i, (state, maps) in enumerate(zip(output.hidden_states[1:], output.attentions, strict=True)):
        states |= {f"{prefix}blocks_{i}/attn": maps, f"{prefix}blocks_{i}": state}
    return {**states, f"{prefix}norm": output.last_hidden_state}


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert_close(ours[name], expected)


def test_vit(tmp_path):
    theirs = original("ViTForImageClassification", transformers.ViTConfig(**SIZES, image_size=[16, 24], patch_size=8))
    images = images_of((16, 24))
    assert_same(ours_of(theirs, vit.describe_transformers, tmp_path, images), by_our_names(theirs.vit, images))


def test_mae(tmp_path):
    """Of whole images; noise that grows keeps their patches in their order."""
    decoder = {f"decoder_{name}": size for name, size in SIZES.items()}
    config = transformers.ViTMAEConfig(**SIZES, **decoder, image_size=16, patch_size=4, mask_ratio=0.0)
    theirs, table = original("ViTMAEForPreTraining", config), torch.from_numpy(sincos2d((4, 4), 24, prefix=1))
    theirs.vit.embeddings.position_embeddings.data = table.clone()
    theirs.decoder.decoder_pos_embed.data = table.clone()
    images, noise = images_of((16, 16)), torch.arange(16.0).expand(2, 16)
    ours = ours_of(theirs, mae.describe_transformers, tmp_path, images)
    assert_same(ours, by_our_names(theirs.vit, images, noise=noise))


def test_clip(tmp_path):
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 9, "bos_token_id": 48, "eos_token_id": 49}
    vision = {**SIZES, "hidden_size": 20, "num_attention_heads": 5, "image_size": 15, "patch_size": 5}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=11)
    theirs, images = original("CLIPModel", config), images_of((15, 15))
    tokens = np.array([[48, 3, 5, 49, 0, 0, 0, 0], [48, 7, 1, 2, 9, 30, 4, 49]], np.int32)
    ours = ours_of(theirs, clip.describe_transformers, tmp_path, images, tokens)
    expected = by_our_names(theirs.vision_model, images, prefix="image/")
    # They normalise the class token alone.
    expected["image/norm"] = theirs.vision_model.post_layernorm(expected["image/norm"])
    assert_close(ours["image/norm"][:, 0], run(theirs.vision_model, images).pooler_output)
    assert_same(ours, expected | by_our_names(theirs.text_model, tokens, prefix="text/"))


@pytest.mark.parametrize(("kind", "size"), [("Swin", (26, 42)), ("Swinv2", (32, 48))])
def test_swin(kind, size, tmp_path):
    """Whole maps and padded ones; every second block is shifted. Their models report one block a stage: hooks give all."""
    sizes = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "patch_size": 2, "window_size": 4}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=list(size))
    theirs, images, steps = original(f"{kind}ForImageClassification", config), images_of(size), []
    for module in theirs.modules():
        if type(module).__name__ in (f"{kind}Layer", f"{kind}PatchMerging"):
            module.register_forward_hook(lambda module, given, output: steps.append(output))
    ours = ours_of(theirs, swin.describe_transformers, tmp_path, images)
    output = run(getattr(theirs, kind.lower()), images, **EVERYTHING)
    expected = [output.hidden_states[0]]
    for step in steps:
        expected += [step[1], step[0]] if isinstance(step, tuple) else [step]
    expected.append(output.last_hidden_state)
    shapes = [x.shape for x in ours.values()]  # theirs: [B, H * W, D] and [B * windows, heads, n, n]
    assert_same(ours, dict(zip(ours, (x.reshape(s) for x, s in zip(expected, shapes, strict=True)), strict=True)))
