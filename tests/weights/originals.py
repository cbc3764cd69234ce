"""What the parity tests of weights share: originals drawn anew, ours from their files, and files from ours."""

import json
import pathlib

import jax
import numpy as np
import pytest

from vision_jax.models.inference import variable_shapes
from vision_jax.weights.mapping import export_variables, import_variables
from vision_jax.weights.readers import open_tensors, unwrap
from vision_jax.weights.safetensors import write_safetensors

torch = pytest.importorskip("torch")


def redrawn(model):
    """The model with every parameter and saved buffer drawn anew, none of them as it began, for evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5)
            else:
                value += torch.randn(value.shape, generator=generator) * 0.3
    return model.eval()


def init(ours, *inputs):
    """Variables of a model of ours, none of them as it begins."""
    shapes, rng = jax.eval_shape(ours.init, jax.random.key(0), *inputs), np.random.default_rng(2)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * (leaf.shape[-2] if leaf.ndim > 1 else 10) ** -0.5
        return np.float32(np.abs(values) + 0.5 if path[-1].key in ("scale", "var") else values)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images_of(size, count=2, channels=3):
    return np.random.default_rng(1).normal(size=(count, *size, channels)).astype(np.float32)


def run(theirs, *inputs, **options):
    """What a torch model, or a method of one, makes of images [B, H, W, C] and tokens."""
    turned = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x.astype(np.int64)) for x in inputs]
    getattr(theirs, "__self__", theirs).requires_grad_(False)
    return theirs(*turned, **options)


def load(describe, path, *inputs, **given):
    """The model and variables of a file as `describe` has it, the file's config.json beside it; every tensor is known."""
    tensors = unwrap(open_tensors(path))
    folder = pathlib.Path(path)
    configs = [folder / name for name in ("config.json", "open_clip_config.json") if (folder / name).is_file()]
    described = describe(json.loads(configs[0].read_text()) if configs else None, tensors, given)
    model = described.create_model()
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0), "masking": jax.random.key(0)}, *inputs)
    variables, report = import_variables(tensors, described.names, shapes)
    assert report.unexpected == []
    return model, variables, described


def imported(described, tensors):
    """(variables, report) of a description and the tensors that it is of."""
    shapes = variable_shapes(described.create_model(), described.image_size)
    return import_variables(tensors, described.names, shapes)


def save(path, variables, names, **config):
    """A file of our variables, and config.json, or what another keyword names, beside it."""
    write_safetensors(path, export_variables(variables, names), {"format": "pt"})
    for name, value in config.items():
        pathlib.Path(path).with_name(f"{name}.json").write_text(json.dumps(value))


def assert_close(got, expected, least=0.1):
    expected = np.asarray(expected)
    assert np.abs(expected).max() > least
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
