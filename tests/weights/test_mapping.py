"""The engine that reads and writes every format, on one of its own."""

import jax
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.weights.mapping import TORCH, Names, entries, export_variables, import_variables
from vision_jax.weights.tensors import Tensor

NAMES = Names(
    rules=((r"^stem", "conv1"), (r"blocks_", "layers/"), (r"attn/(query|key|value)", "qkv"), *TORCH),
    layouts=(("token", "vector"),),
    blocks=("layers.",),
    ignored=r"\.index$",
)


def dense(rng, *shape):
    return {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1:])}


@pytest.fixture
def variables():
    rng = np.random.default_rng(0)
    params = {
        "stem": dense(rng, 2, 3, 3, 4),
        "token": rng.normal(size=(1, 1, 4)),
        "norm": {"scale": rng.normal(size=4)},
    }
    for i in range(11):
        params[f"blocks_{i}"] = {"attn": {part: dense(rng, 4, 4) for part in ("key", "query", "value")}}
    return jax.tree.map(np.float32, {"params": params, "batch_stats": {"norm": {"mean": rng.normal(size=4)}}})


def shapes_of(variables):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)


def tensors_of(arrays):
    return {name: Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}


def test_names_and_layouts(variables):
    """Rules in order; kernels by their rank; parts of one tensor in the order query, key, value."""
    params, arrays = variables["params"], export_variables(variables, NAMES)
    blocks = {f"layers.{i}.qkv.{leaf}" for i in range(11) for leaf in ("weight", "bias")}
    assert arrays.keys() == {"conv1.weight", "conv1.bias", "token", "norm.weight", "norm.mean"} | blocks
    np.testing.assert_array_equal(arrays["conv1.weight"], params["stem"]["kernel"].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(arrays["token"], params["token"][0, 0])
    np.testing.assert_array_equal(arrays["norm.mean"], variables["batch_stats"]["norm"]["mean"])
    parts = [params["blocks_10"]["attn"][part] for part in ("query", "key", "value")]
    np.testing.assert_array_equal(arrays["layers.10.qkv.weight"], np.vstack([part["kernel"].T for part in parts]))
    np.testing.assert_array_equal(arrays["layers.10.qkv.bias"], np.hstack([part["bias"] for part in parts]))
    again, report = import_variables(tensors_of(arrays), NAMES, shapes_of(variables))
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert report == ([], [])


def test_blocks_that_are_parts_of_one_tensor(variables):
    """In the order of their numbers, which is not that of their names."""
    names = NAMES._replace(rules=((r"^blocks_\d+", "layers"), *NAMES.rules))
    arrays = export_variables(variables, names)
    parts = [variables["params"][f"blocks_{i}"]["attn"] for i in range(11)]
    expected = [part[name]["bias"] for part in parts for name in ("query", "key", "value")]
    np.testing.assert_array_equal(arrays["layers.qkv.bias"], np.concatenate(expected))
    again, _ = import_variables(tensors_of(arrays), names, shapes_of(variables))
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_rules_that_give_two_parameters_one_name_are_an_error():
    with pytest.raises(ValueError, match=r"'params/a/bias' and another parameter are called 'x.bias', in no order"):
        entries(Names(((r"^[ab]/", "x/"), *TORCH)), {"params/a/bias": (1,), "params/b/bias": (1,)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": None}, "the file lacks 'token'"),
        ({"token": np.zeros(5, np.float32)}, r"shapes do not fit: 'token' \[5\] for 'token' \[1, 1, 4\]"),
        ({"token": np.zeros(4, np.int32)}, "'token' holds int32, but parameters are floating-point numbers"),
        ({"layers.0.qkv.bias": np.zeros(13, np.float32)}, r"'layers.0.qkv.bias' \[13\] for .* and 2 more"),
        ({"layers.0.gate": np.zeros(1)}, "of another architecture: its blocks have 'layers.0.gate'"),
    ],
)
def test_what_does_not_fit(changes, words, variables):
    arrays = export_variables(variables, NAMES) | changes
    tensors = tensors_of({name: x for name, x in arrays.items() if x is not None})
    with pytest.raises(ConfigError, match=words):
        import_variables(tensors, NAMES, shapes_of(variables))


def test_what_is_left_over_is_reported(variables):
    arrays = export_variables(variables, NAMES) | {"layers.0.index": np.zeros(1), "epoch": np.zeros(1)}
    assert import_variables(tensors_of(arrays), NAMES, shapes_of(variables))[1] == (["epoch"], ["layers.0.index"])
