import json
import pathlib
import pickle
import subprocess
import sys
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hand_made import ORDERED_DICT, Name, New, archive, legacy, npz, parameter, pickled, safetensors, tensor
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vision_jax.errors import ConfigError
from vision_jax.weights.readers import open_tensors, select, unwrap
from vision_jax.weights.tensors import Tensors

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
COUNT = np.array(7, np.int64)
ROOT = {
    "model": {
        "weight": tensor("FloatStorage", "0", 12, 0, (3, 4), (4, 1)),
        "transposed": parameter(tensor("FloatStorage", "0", 12, 0, (4, 3), (1, 4))),
        "part": tensor("FloatStorage", "0", 12, 5, (2, 2), (4, 2)),
    },
    "optimizer": {"state": {0: {"step": tensor("LongStorage", "1", 1, 0, (), ())}}},
    "epoch": 3,
    "args": New(
        Name("argparse", "Namespace"), {"model": "mae_vit_base_patch16", "norm_pix_loss": True, "depths": [2, 2]}
    ),
}
STORAGES = {"0": MATRIX.tobytes(), "1": COUNT.tobytes()}
WHOLE = {
    "npz": npz({"params/kernel": MATRIX, "count": COUNT}),
    "npz_compressed": npz({"params/kernel": MATRIX, "count": COUNT}, compression=1),
    "safetensors": safetensors(
        {
            "__metadata__": {"format": "pt"},
            "kernel": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
            "count": {"dtype": "I64", "shape": [], "data_offsets": [48, 56]},
        },
        MATRIX.tobytes() + COUNT.tobytes(),
    ),
    "torch": archive(pickled(ROOT), STORAGES),
    "torch_compressed": archive(pickled(ROOT), STORAGES, compression=zipfile.ZIP_DEFLATED),
    "torch_zip64": archive(pickled(ROOT), STORAGES, is_zip64=True),
    "legacy": legacy(ROOT, {"0": (12, MATRIX.tobytes()), "1": (1, COUNT.tobytes())}),
}


@pytest.fixture
def opened(tmp_path):
    def write_and_open(data: bytes, name="weights"):
        (tmp_path / name).write_bytes(data)
        return open_tensors(tmp_path / name)

    return write_and_open


def read_all(path) -> dict[str, np.ndarray]:
    return {name: np.asarray(found) for name, found in open_tensors(path).items()}


def check_message(error: ConfigError, path: pathlib.Path) -> None:
    assert str(path) in str(error) and str(error).isprintable()


@pytest.mark.parametrize("format", ["torch", "torch_compressed", "torch_zip64", "legacy"])
def test_torch_files_made_by_hand(opened, format):
    tensors = opened(WHOLE[format])
    found = {name: described.read() for name, described in tensors.items()}
    assert list(found) == ["model.weight", "model.transposed", "model.part", "optimizer.state.0.step"]
    np.testing.assert_array_equal(found["model.weight"], MATRIX)
    np.testing.assert_array_equal(found["model.transposed"], MATRIX.T)
    np.testing.assert_array_equal(found["model.part"], [[5, 7], [9, 11]])
    assert found["optimizer.state.0.step"] == 7 and found["optimizer.state.0.step"].dtype == np.int64
    for name, described in tensors.items():
        assert (described.shape, described.dtype) == (found[name].shape, found[name].dtype)
    assert tensors.metadata == {
        "epoch": 3, "args.model": "mae_vit_base_patch16", "args.norm_pix_loss": True, "args.depths": [2, 2],
    }  # fmt: skip
    assert list(unwrap(tensors)) == ["weight", "transposed", "part"]


def test_a_torchscript_archive_made_by_hand(opened):
    linear = New(Name("__torch__.torch.nn.modules.linear.___torch_mangle_3", "Linear"), {
        "weight": parameter(tensor("HalfStorage", "0", 4, 0, (2, 2), (2, 1))), "training": True,
    })  # fmt: skip
    root = New(Name("__torch__.clip.model", "CLIP"), {"visual": linear, "input_resolution": 224, "context": None})
    data = {"0": np.arange(4, dtype=np.float16).tobytes()}
    tensors = opened(archive(pickled(root), data, prefix="ViT-B-32/", **{"constants.pkl": pickled(())}))
    assert list(tensors) == ["visual.weight"]
    np.testing.assert_array_equal(tensors["visual.weight"].read(), np.float16([[0, 1], [2, 3]]))
    assert tensors.metadata == {"visual.training": True, "input_resolution": 224, "context": None}
    with pytest.raises(ConfigError, match=r"names '__torch__\.clip\.model\.CLIP'"):
        opened(archive(pickled(root), data))


@pytest.mark.parametrize("prefix", ["", "archive/", "mae_pretrain_vit_base/"])
def test_prefixes_of_torch_archives(opened, prefix):
    tensors = opened(archive(pickled({"w": tensor("BFloat16Storage", "9", 2, 1, (1,), (1,))}), {"9": bytes(4)}, prefix))
    assert tensors["w"].dtype == ml_dtypes.bfloat16 and tensors["w"].read().shape == (1,)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_of_every_protocol(opened, protocol):
    settings = {
        "text": "é\n",
        "number": -70000,
        "large": 2**70,
        "small": 1.5,
        "flag": True,
        "none": None,
        "list": [1, "a"],
    }
    code = pickle.dumps(
        {**settings, "set": {1}, "bytes": b"x", "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}, protocol
    )
    weight = pickled(tensor("FloatStorage", "0", 12, 0, (12,), (1,)))[2:-1]
    with_weight = code[:-1] + _text("w") + weight + b"s."  # the dict is on the stack when the pickle stops
    if protocol >= 4:  # without the frame, whose length no longer holds
        with_weight = code[:2] + with_weight[11:]
    tensors = opened(archive(with_weight, STORAGES))
    np.testing.assert_array_equal(tensors["w"].read(), MATRIX.ravel())
    assert tensors.metadata.items() >= settings.items()


def _text(text: str) -> bytes:
    return pickled(text)[2:-1]


@hypothesis.given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
        hnp.arrays(
            st.sampled_from(["f4", ">f4", "f2", "i8", "?", "u1", "c8", "<U3"]), hnp.array_shapes(min_dims=0, min_side=0)
        ),
        min_size=1,
    ),
    st.booleans(),
    st.booleans(),
)
@hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=50
)
def test_npz_equals_numpy(tmp_path, arrays, is_compressed, is_fortran):
    arrays = {f"a/{name}": np.asfortranarray(array) if is_fortran else array for name, array in arrays.items()}
    (tmp_path / "x").write_bytes(npz(arrays, is_compressed))
    tensors = open_tensors(tmp_path / "x")
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].read(), array)
        assert tensors[name].dtype == tensors[name].read().dtype == array.dtype.newbyteorder("=")
        assert tensors[name].shape == array.shape


def test_bfloat16_of_numpy(opened):
    values = np.array([1, -2.5, np.inf], ml_dtypes.bfloat16)
    tensors = opened(npz({"w": values}))
    assert tensors["w"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["w"].read(), values)


def test_npz_refuses_pickled_and_structured_arrays_and_damage(opened):
    with pytest.raises(ConfigError, match=r"'w\.npy' holds pickled Python objects"):
        opened(npz({"w": np.array([{}], object)}))
    with pytest.raises(ConfigError, match=r"'w\.npy' has the dtype .* which is not read"):
        opened(npz({"w": np.zeros(2, [("a", "f4"), ("b", "i4")])}))
    damaged = bytearray(WHOLE["npz"])
    damaged[damaged.index(MATRIX.tobytes()) + 5] ^= 1
    tensors = opened(bytes(damaged))
    with pytest.raises(ConfigError, match=r"'params/kernel\.npy' has not the checksum"):
        tensors["params/kernel"].read()


@pytest.mark.parametrize("format", WHOLE)
def test_a_file_that_is_cut_off(tmp_path, format):
    whole, path = WHOLE[format], tmp_path / "weights"
    path.write_bytes(whole)
    assert read_all(path)
    for hundredth in range(100):
        path.write_bytes(whole[: len(whole) * hundredth // 100])
        with pytest.raises(ConfigError) as caught:
            read_all(path)
        check_message(caught.value, path)


@pytest.mark.parametrize("format", WHOLE)
@hypothesis.given(st.data())
@hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=60
)
def test_damage_anywhere_is_harmless(tmp_path, format, data):
    """Any bytes changed or cut out: the file is still read, or there is one clear line."""
    path, damaged = tmp_path / "weights", bytearray(WHOLE[format])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(damaged)
    try:
        read_all(path)
    except ConfigError as error:
        check_message(error, path)


FOREIGN = {
    "the file is empty": b"",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
    "a web page": b"<!DOCTYPE html>",
    "a bare pickle": pickle.dumps({"model": 1}),
    "of no known format": bytes(range(200, 256)),
    "compressed with gzip": b"\x1f\x8b\x08" + bytes(20),
    "a zip file without weights": archive(b"").replace(b"data.pkl", b"data.txt"),
    "no 'weight_map'": b'{"architectures": ["ViTModel"]}',
    "holds no tensors by name": archive(pickled({"epoch": 1})),
}


@pytest.mark.parametrize("problem", FOREIGN)
def test_files_of_no_weights(tmp_path, problem):
    path = tmp_path / "weights.pt"
    path.write_bytes(FOREIGN[problem])
    with pytest.raises(ConfigError, match=problem) as caught:
        open_tensors(path)
    check_message(caught.value, path)


def test_absent_files_and_empty_folders(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.pt': cannot be read \(No such file"):
        open_tensors(tmp_path / "absent.pt")
    with pytest.raises(ConfigError, match=r"the folder holds none of model\.safetensors, "):
        open_tensors(tmp_path)


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(WHOLE["safetensors"])
    tensors = open_tensors(path)
    path.write_bytes(WHOLE["safetensors"][:-20])
    with pytest.raises(ConfigError, match="changed while it was read"):
        tensors["kernel"].read()


@pytest.mark.parametrize(
    "root, problem",
    [
        (tensor("FloatStorage", "0", 12, 1, (3, 4), (4, 1)), "over the end of its storage"),
        (tensor("FloatStorage", "0", 99, 0, (99,), (1,)), "has 48 bytes, but needs 396"),
        (tensor("FloatStorage", "5", 12, 0, (3, 4), (4, 1)), "'archive/data/5' has 0 bytes"),
        (tensor("FloatStorage", "0", 12, -1, (3,), (1,)), "whole numbers"),
        (tensor("FloatStorage", "0", 12, 0, (3,), (-1,)), "whole numbers"),
        (tensor("FloatStorage", "0", 12, 0, (3, 4), (4,)), "2 sides and 1 strides"),
        (tensor("FloatStorage", "0", 12, 0, (2**40, 2**40), (0, 0)), "too large"),
        (tensor("QInt8Storage", "0", 12, 0, (12,), (1,)), "names 'torch.QInt8Storage'"),
    ],
)
def test_wrong_tensors_of_torch(opened, root, problem):
    with pytest.raises(ConfigError, match=problem):
        opened(archive(pickled({"w": root}), STORAGES))


def test_an_expanded_tensor_takes_no_memory(opened):
    values = opened(archive(pickled({"w": tensor("FloatStorage", "0", 12, 1, (10**9, 2), (0, 1))}), STORAGES))[
        "w"
    ].read()
    assert values.shape == (10**9, 2) and values[-1].tolist() == [1, 2] and not values.flags.writeable


def test_two_tensors_of_one_name(opened):
    weight = tensor("FloatStorage", "0", 12, 0, (12,), (1,))
    with pytest.raises(ConfigError, match=r"two tensors have the name 'a\.b'"):
        opened(archive(pickled({"a.b": weight, "a": {"b": weight}}), STORAGES))


def test_big_endian_torch_archives_are_refused(opened):
    with pytest.raises(ConfigError, match="big-endian"):
        opened(archive(pickled(ROOT), STORAGES, byteorder="big"))


def test_state_dicts_with_attributes(opened):
    """torch's state_dict() is an OrderedDict with an attribute _metadata."""
    state = b"\x80\x02" + pickled(ORDERED_DICT)[2:-1] + _text("w") + pickled(ROOT["model"]["weight"])[2:-1] + b"s"
    state += pickled({"_metadata": {"": {"version": 1}}})[2:-1] + b"b."
    assert list(opened(archive(state, STORAGES))) == ["w"]


def write_shards(folder: pathlib.Path, weight_map: dict) -> pathlib.Path:
    first = {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}
    (folder / "model-1.safetensors").write_bytes(safetensors(first, MATRIX.tobytes()))
    second = {"b": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}}
    (folder / "model-2.safetensors").write_bytes(safetensors(second, COUNT.tobytes()))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": weight_map}))
    return index


def test_shards(tmp_path):
    index = write_shards(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    for source in (index, tmp_path):
        found = read_all(source)
        np.testing.assert_array_equal(found["a"], MATRIX)
        assert found["b"] == 7
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"shard 'model-2\.safetensors' is missing"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "weight_map, problem",
    [
        ({"c": "model-1.safetensors"}, r"shard 'model-1\.safetensors' has no tensor 'c'"),
        ({"a": "../model-1.safetensors"}, "outside of its folder"),
        ({"a": "/etc/passwd"}, "outside of its folder"),
        ({"a": ".."}, "outside of its folder"),
        ({"a": 3}, "outside of its folder"),
        ({"a": "model.safetensors.index.json"}, "names an index"),
        ({}, "no 'weight_map'"),
    ],
)
def test_wrong_indexes(tmp_path, weight_map, problem):
    with pytest.raises(ConfigError, match=problem):
        open_tensors(write_shards(tmp_path, weight_map))


@pytest.mark.parametrize(
    "names, expected",
    [
        (["blocks.0.w", "head.w"], ["blocks.0.w", "head.w"]),
        (["model.w", "optimizer.state.0.m", "model_ema.w"], ["w"]),
        (["state_dict.module.visual.w", "optimizer.state.0.m"], ["visual.w"]),
        (["module.w", "module.v"], ["w", "v"]),
        (["module.w", "head.v"], ["module.w", "head.v"]),
        (["model.w", "head.v"], ["model.w", "head.v"]),
    ],
)
def test_unwrap(names, expected):
    assert list(unwrap(Tensors(None, dict.fromkeys(names)))) == expected


def test_select():
    tensors = Tensors(None, {"model.w": 1, "model_ema.w": 2, "model_ema": 3})
    assert select(tensors, "model_ema") == {"w": 2}
    with pytest.raises(ConfigError, match="no tensors under 'ema'; there are: model, model_ema"):
        select(tensors, "ema")


def test_neither_torch_nor_tensorflow_is_imported(tmp_path):
    (tmp_path / "w.pt").write_bytes(WHOLE["torch"])
    code = (
        "import sys; from vision_jax.weights.readers import open_tensors; import vision_jax.weights.hub;"
        "[t.read() for t in open_tensors(sys.argv[1]).values()];"
        "print(sorted({'torch', 'tensorflow', 'safetensors', 'huggingface_hub', 'jax', 'optax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.pt")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
