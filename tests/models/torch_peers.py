"""What the parity tests share: a torch model's parameters drawn anew, and its layers in our layout."""

import chex
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")


def randomize(model, scale=0.2):
    """Every parameter drawn anew, so that none is zero or one, and numpy copies of them by name."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def conv(state, name):
    return {"kernel": state[f"{name}.weight"].transpose(2, 3, 1, 0)}


def images_of(size):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


def compare(ours, params, theirs, images, rtol=1e-5):
    """Our logits with `params`, whose tree must be exactly the module's, against theirs."""
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(np.ascontiguousarray, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = getattr(expected, "logits", expected).numpy()
    got = jax.jit(ours.apply)({"params": params}, images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-5)
