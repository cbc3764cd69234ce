"""PyTorch's files written without torch: read by our reader, by torch, and by open_clip as a model of OpenAI."""

import math
import pickle
import struct
import zipfile

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.weights.readers import open_tensors
from vision_jax.weights.tensors import DTYPES
from vision_jax.weights.torch_writer import write_torch

KNOWN = "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 bool complex64 complex128".split()  # noqa: SIM905


def arrays() -> dict[str, np.ndarray]:
    bits = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = {f"a.{name}": (bits % 5).astype(DTYPES[name]) for name in KNOWN}
    found |= {"scalar": np.array(3.5), "count": np.array(7), "empty": np.zeros((2, 0, 3), np.float16)}
    return found | {"": bits[0], "größe.视觉.🙂\n": bits[1, 2], "wide": np.arange(70_000, dtype=np.int32)[None]}


def same(read: np.ndarray, array: np.ndarray) -> bool:
    return (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


@st.composite
def drawn(draw) -> np.ndarray:
    """Any bits in any dtype and shape."""
    dtype, shape = DTYPES[draw(st.sampled_from(KNOWN))], draw(st.lists(st.integers(0, 4), max_size=4))
    size = math.prod(shape) * dtype.itemsize
    data = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    return (data % 2 if dtype.kind == "b" else data).view(dtype).reshape(shape)


@hypothesis.given(tensors=st.dictionaries(st.text(max_size=20), drawn(), min_size=1, max_size=5))
@hypothesis.settings(
    deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_written_and_read_again(tmp_path, tensors):
    write_torch(tmp_path / "x", tensors)
    found = open_tensors(tmp_path / "x")
    assert list(found) == list(tensors) and found.metadata == {}
    assert all(same(found[name].read(), array) for name, array in tensors.items())


def test_other_orders_in_memory_and_jax_arrays(tmp_path):
    import jax.numpy as jnp

    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {"transposed": base.T, "part": base[1::2, ::-3], "big": base.astype(">f4")}
    write_torch(tmp_path / "x", {**tensors, "jax": jnp.asarray(base, jnp.bfloat16)})
    found = open_tensors(tmp_path / "x")
    for name, array in tensors.items():
        assert same(found[name].read(), np.ascontiguousarray(array, np.float32))
    assert same(found["jax"].read(), base.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 100])
def test_torch_reads_it(tmp_path, monkeypatch, limit):
    """Also in the form that members over 2 GiB take."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    write_torch(tmp_path / "x.pt", arrays())
    for options in ({}, {"mmap": True}, {"weights_only": False}):
        found = torch.load(tmp_path / "x.pt", **{"weights_only": True, **options})
        assert type(found) is dict and list(found) == list(arrays())
        for name, array in arrays().items():
            tensor = found[name]
            assert tensor.dtype == getattr(torch, array.dtype.name) and tuple(tensor.shape) == array.shape
            assert tensor.is_contiguous() and not tensor.requires_grad
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()
            assert "mmap" not in options or tensor.data_ptr() % 64 == 0
    found = open_tensors(tmp_path / "x.pt")
    assert all(same(found[name].read(), array) for name, array in arrays().items())


class Name(str):
    """A global of a pickle; called, it tells with what."""

    def __call__(self, *arguments):
        return self, arguments


class Description(pickle.Unpickler):
    def find_class(self, module, name):
        return Name(f"{module}.{name}")

    def persistent_load(self, pid):
        return pid


def test_the_same_members_as_torch_s(tmp_path):
    torch = pytest.importorskip("torch")
    mine = {name: array for name, array in arrays().items() if name != "a.bfloat16"}  # from_numpy lacks it
    write_torch(tmp_path / "mine.pt", mine)
    # A clone has torch's own strides along sides of 0 and 1, not numpy's.
    tensors = {
        name: torch.from_numpy(array).clone(memory_format=torch.contiguous_format) for name, array in mine.items()
    }
    torch.save(tensors, tmp_path / "archive.pt")
    with zipfile.ZipFile(tmp_path / "mine.pt") as ours, zipfile.ZipFile(tmp_path / "archive.pt") as theirs:
        data = [f"archive/data/{key}" for key in range(len(mine))]
        assert set(ours.namelist()) == {"archive/data.pkl", "archive/byteorder", "archive/version", *data}
        for name in {*ours.namelist()} - {"archive/data.pkl"}:
            assert ours.read(name) == theirs.read(name), name
        pickles = [Description(archive.open("archive/data.pkl")).load() for archive in (ours, theirs)]
    assert pickles[0] == pickles[1] and list(pickles[0]) == list(mine)


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 100])
def test_members_are_whole_and_aligned(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    write_torch(tmp_path / "x", arrays())
    data = (tmp_path / "x").read_bytes()
    with zipfile.ZipFile(tmp_path / "x") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            assert start % 64 == 0 and data[start : start + info.file_size] == archive.read(info)
    write_torch(tmp_path / "again", arrays())
    assert (tmp_path / "again").read_bytes() == data


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float8_e4m3fn", "datetime64[s]", "object", "U3", "i4,f4"])
def test_dtypes_that_torch_has_no_storage_for(tmp_path, dtype):
    array = np.zeros(2, DTYPES.get(dtype, dtype))
    with pytest.raises(ConfigError, match=r"no storage for 'head\.weight' of dtype .*, only for bool, uint8"):
        write_torch(tmp_path / "x", {"bias": np.zeros(2), "head.weight": array})
    assert not list(tmp_path.iterdir())


class Fails:
    shape, dtype = (2,), np.dtype(np.float32)

    def __init__(self, found):
        self.found = found

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.found, BaseException):
            raise self.found
        return self.found


def test_what_is_interrupted_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pt"
    write_torch(path, {"w": np.arange(3)})
    before = path.read_bytes()
    for found, raised, message in (
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(28, "No space left on device"), ConfigError, r"x\.pt' cannot be written \(No space left"),
        (np.zeros(3, np.float32), ValueError, r"'w' has 12 bytes, but is said to be float32\[2\]"),
    ):
        with pytest.raises(raised, match=message):
            write_torch(path, {"a": np.zeros(2), "w": Fails(found)})
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.pt"
    write_torch(path, {"w": np.arange(3)})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"x\.pt' cannot be written \(File too large"):
            write_torch(path, {"a": np.arange(3), "w": np.zeros(10**5), "b": np.arange(5)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_torch(tmp_path / "absent" / "x", {"w": np.zeros(2)})


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_open_clip_loads_it_as_a_model_of_openai(tmp_path):
    pytest.importorskip("torch")
    load_openai_model = pytest.importorskip("open_clip.openai").load_openai_model
    import jax
    from originals import assert_close, images_of, init, load, run

    from vision_jax.models import CLIP
    from vision_jax.weights.families import clip_openai
    from vision_jax.weights.mapping import export_variables

    image = {"patch_size": 8, "width": 64, "depth": 1, "num_heads": 1, "mlp_dim": 256, "act": "quick_gelu"}
    image |= {"norm_eps": 1e-5, "pre_norm": True, "patch_bias": False, "cls_token": True}
    text = {"text_width": 64, "text_depth": 1, "text_num_heads": 1, "vocab_size": 50, "context_length": 9}
    ours = CLIP("vit", image, embed_dim=16, **text)
    images, tokens = images_of((16, 16)), np.array([[48, 3, 49, 0, 0, 0, 0, 0, 0], [48, 5, 6, 7, 8, 9, 1, 2, 49]])
    # The original has most of its weights in float16.
    variables = jax.tree.map(lambda x: np.float32(np.float16(x)), init(ours, images, tokens))
    scalars = {name: np.array(value) for name, value in (("input_resolution", 16), ("context_length", 9), ("vocab_size", 50))}  # fmt: skip
    write_torch(tmp_path / "clip.pt", export_variables(variables, clip_openai.names_of(ours, (16, 16))) | scalars)

    expected = jax.jit(ours.apply)(variables, images, tokens)
    theirs = load_openai_model(str(tmp_path / "clip.pt"), precision="fp32", device="cpu")
    for got, their in zip(expected, run(theirs, images, tokens), strict=True):
        assert_close(got, their)
    _, again, described = load(clip_openai.describe_official, tmp_path / "clip.pt", images, tokens)
    assert described.image_size == (16, 16)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
