"""What the tests of ViT's and MAE's weights share: random originals, and the way of a file into our model and back."""

import functools
import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision_jax.models.inference import variable_shapes
from vision_jax.weights.mapping import import_variables
from vision_jax.weights.readers import open_tensors, unwrap

torch = pytest.importorskip("torch")


def randomize(model, scale=0.2, seed=0):
    """Every parameter and buffer of floats drawn anew, so that none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in (*model.parameters(), *model.buffers()):
            if values.is_floating_point():
                values.copy_(torch.randn(values.shape, generator=generator) * scale)
    return model.eval()


def theirs_of(model, images, **inputs):
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), **inputs)


def config_in(folder):
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.exists() else None


def loaded(path, describe, given=None):
    """(description, model, params, report) of a folder or file."""
    tensors = unwrap(open_tensors(path))
    description = describe(config_in(path) if path.is_dir() else None, tensors, given)
    model = description.create_model()
    shapes = variable_shapes(model, description.image_size)
    variables, report = import_variables(tensors, description.names, shapes)
    return description, model, variables["params"], report


def drawn(model, image_size, seed=0):
    """Random parameters of ours: flat, path -> array."""
    rng, shapes = np.random.default_rng(seed), flatten_dict(variable_shapes(model, image_size)["params"], sep="/")
    return {name: 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}


def timm_hybrid(units, patch, size, **fields):
    """With Google's epsilons in the stem, and weights far above the one that standardisation adds in another place."""
    pytest.importorskip("timm")
    from timm.layers import HybridEmbed, StdConv2dSame
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import _resnetv2

    backbone = _resnetv2(units)
    embed = functools.partial(HybridEmbed, backbone=backbone)
    theirs = VisionTransformer(
        size, patch, embed_dim=24, depth=1, num_heads=3, mlp_ratio=2, num_classes=5, embed_layer=embed, **fields
    )
    for module in backbone.modules():
        if isinstance(module, StdConv2dSame):
            module.eps = 1e-12
        elif isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-6
    randomize(theirs)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter *= 5
    return theirs
