import ml_dtypes
import numpy as np
import pytest
from hand_made import safetensors

from vision_jax.errors import ConfigError
from vision_jax.weights.readers import open_tensors
from vision_jax.weights.safetensors import write_safetensors
from vision_jax.weights.tensors import DTYPES
from vision_jax.weights.torch_writer import write_torch


def arrays() -> dict[str, np.ndarray]:
    bits = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = {f"a.{name}": (bits % 5).astype(dtype) for name, dtype in DTYPES.items() if name != "complex128"}
    return found | {"scalar": np.array(3.5), "empty": np.zeros((0, 3), np.float16), "ü": bits[..., 0]}


def test_written_and_read_again(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, arrays(), {"format": "np"})
    tensors = open_tensors(path)
    assert tensors.metadata == {"format": "np"} and set(tensors) == set(arrays())
    for name, array in arrays().items():
        read = tensors[name].read()
        assert (read.dtype, read.shape) == (array.dtype, array.shape) == (tensors[name].dtype, tensors[name].shape)
        assert read.tobytes() == array.tobytes()


def test_the_package_reads_what_is_written(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    mine = {name: array for name, array in arrays().items() if "float8" not in name}  # which it lacks
    mine |= {"transposed": np.arange(6.0).reshape(2, 3).T, "big": np.arange(3, dtype=">i4")}
    write_safetensors(tmp_path / "x", mine, {"format": "pt"})
    found = package.load_file(tmp_path / "x")
    assert set(found) == set(mine)
    for name, array in mine.items():
        np.testing.assert_array_equal(found[name].astype(np.complex128), array.astype(np.complex128))


def test_the_same_bytes_as_the_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    mine = {
        "b": np.arange(4, dtype=np.float32),
        "a": np.arange(3, dtype=np.float32),
        "n": np.arange(3),
        "h": np.zeros(3, np.float16),
    }
    package.save_file(mine, tmp_path / "theirs", {"format": "pt"})
    write_safetensors(tmp_path / "mine", mine, {"format": "pt"})
    assert (tmp_path / "mine").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_torch_reads_and_writes_the_same(tmp_path):
    torch, package = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    values = {
        "bf16": torch.randn(3, 5).bfloat16(),
        "half": torch.randn(4).half(),
        "flag": torch.tensor([True, False]),
        "n": torch.tensor(5),
    }
    package.save_file(values, tmp_path / "theirs", {"format": "pt"})
    tensors = open_tensors(tmp_path / "theirs")
    assert tensors["bf16"].dtype == ml_dtypes.bfloat16
    for name, value in values.items():
        np.testing.assert_array_equal(tensors[name].read().astype(np.float32), value.float().numpy())
    write_safetensors(tmp_path / "mine", tensors)
    for name, value in package.load_file(tmp_path / "mine").items():
        assert value.dtype == values[name].dtype and torch.equal(value, values[name])


@pytest.mark.parametrize("write", [write_safetensors, write_torch])
def test_one_tensor_at_a_time_is_in_memory(tmp_path, write):
    """Whatever has a shape and a dtype is asked for its values only when they are written, and not kept."""
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    class Lazy:
        shape, dtype = (2, 3), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            nonlocal alive, most
            alive, most = alive + 1, max(most, alive + 1)
            return np.ones(self.shape, np.float32).view(Counted)

    write(tmp_path / "x", {str(number): Lazy() for number in range(5)})
    assert len(open_tensors(tmp_path / "x")) == 5 and (alive, most) in {(0, 1), (0, 2)}


def test_jax_arrays(tmp_path):
    import jax.numpy as jnp

    write_safetensors(tmp_path / "x", {"w": jnp.ones((2, 3), jnp.bfloat16)})
    np.testing.assert_array_equal(open_tensors(tmp_path / "x")["w"].read(), np.ones((2, 3), ml_dtypes.bfloat16))


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(ConfigError, match="no place for 'w' of dtype complex128"):
        write_safetensors(path, {"w": np.zeros(2, complex)})
    with pytest.raises(ConfigError, match="no place for '__metadata__'"):
        write_safetensors(path, {"__metadata__": np.zeros(2)})
    with pytest.raises(ConfigError, match="metadata of safetensors must be texts"):
        write_safetensors(path, {}, {"epoch": 3})
    with pytest.raises(ConfigError, match="cannot be written"):
        write_safetensors(tmp_path / "absent" / "x", {})

    class Fails:
        shape, dtype = (2,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"w": Fails()})
    assert not list(tmp_path.iterdir())


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, problem",
    [
        (b"{", "JSONDecodeError"),
        (b'{"a": ' * 5000, "RecursionError|JSONDecodeError"),
        (b'{"\xff": 1}', "UnicodeDecodeError"),
        ({"a": {**ENTRY, "shape": [3]}}, "float32.3. has not 8 bytes"),
        ({"a": {**ENTRY, "shape": [-2]}}, "whole numbers from 0"),
        ({"a": {**ENTRY, "shape": [True, 2]}}, "whole numbers from 0"),
        ({"a": {**ENTRY, "shape": 2}}, "TypeError"),
        ({"a": {**ENTRY, "dtype": "F4"}}, "dtype F4 is not known"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, "TypeError"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "has not -8 bytes"),
        ({"a": {**ENTRY, "data_offsets": [8, 16]}}, "begins at byte 8 of the data, not at 0"),
        ({"a": ENTRY, "b": ENTRY}, "begins at byte 0 of the data, not at 8"),
        ({"a": 3}, "TypeError"),
        ({"a": {"dtype": "F32"}}, "KeyError"),
        ({"__metadata__": {"a": 1}}, "texts by name"),
        ({"a": {**ENTRY, "shape": [4], "data_offsets": [0, 16]}}, "cut off: it has"),
        ({}, "damaged: it has"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": 1}', "a name occurs twice"),
    ],
)  # fmt: skip
def test_wrong_headers(tmp_path, header, problem):
    path = tmp_path / "x"
    path.write_bytes(safetensors(header, bytes(8)))
    with pytest.raises(ConfigError, match=problem) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
