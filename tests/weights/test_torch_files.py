"""The reader of PyTorch's files beside torch itself."""

import argparse
import collections
import pathlib

import ml_dtypes
import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.weights.readers import open_tensors, unwrap

torch = pytest.importorskip("torch")

DTYPES = "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 bool complex64 float8_e4m3fn float8_e5m2".split()  # noqa: SIM905


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(3, 9)
        self.register_buffer("index", torch.arange(6).reshape(2, 3))

    def forward(self, x):
        return self.qkv(x)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        self.scale = torch.nn.Parameter(torch.tensor(2.5))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.attention(x) * self.scale


def equal(read: np.ndarray, value) -> bool:
    """Bit by bit."""
    bits = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return read.shape == tuple(value.shape) and np.array_equal(
        np.ascontiguousarray(read).reshape(-1).view(np.uint8), bits
    )


def check(path, expected: dict) -> None:
    tensors = open_tensors(path)
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        assert tensors[name].shape == tuple(value.shape)
        assert equal(tensors[name].read(), value), name


@pytest.fixture(params=["zip", "legacy", "protocol 4"])
def save(request):
    options = {"zip": {}, "legacy": dict(_use_new_zipfile_serialization=False), "protocol 4": dict(pickle_protocol=4)}
    return lambda value, path: torch.save(value, path, **options[request.param])


def test_every_dtype(save, tmp_path):
    values = {name: (torch.arange(12).reshape(3, 4) % 7).to(getattr(torch, name)) for name in DTYPES}
    save(values, tmp_path / "x")
    check(tmp_path / "x", values)
    found = open_tensors(tmp_path / "x")
    assert found["bfloat16"].dtype == ml_dtypes.bfloat16 and found["bool"].dtype == bool


def test_strides_offsets_and_shared_storages(save, tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    values = {
        "base": base,
        "tied": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1, 1:, ::2],
        "column": base[:, 2, 3],
        "element": base[2, 3, 4],
        "expanded": base[:, :1].expand(3, 7, 5),
        "one": torch.arange(4).expand(1, -1),
        "empty": base[:0],
        "empty_inside": base[:, :0],
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base[0].T),
    }
    save(values, tmp_path / "x")
    check(tmp_path / "x", values)


def test_modules_and_training_checkpoints(save, tmp_path):
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    model.attention(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    counter = collections.Counter(a=2)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"milestones": counter, "default": collections.defaultdict(list)},
        "epoch": 7,
        "args": argparse.Namespace(model="vit", output=pathlib.Path("a/b"), sizes=(2, 3), device=torch.device("cpu")),
        "accuracy": np.float64(0.5),
        "array": np.arange(3),
        "random": (torch.get_rng_state(), {1, 2}),
        "shape": torch.Size([2]),
        "dtype": torch.float16,
    }
    save(checkpoint, tmp_path / "x")
    tensors = open_tensors(tmp_path / "x")
    for name, value in model.state_dict().items():
        assert equal(tensors[f"model.{name}"].read(), value)
    for number, moments in optimizer.state_dict()["state"].items():
        assert equal(tensors[f"optimizer.state.{number}.exp_avg"].read(), moments["exp_avg"])
    assert tensors.metadata.items() >= {"epoch": 7, "args.model": "vit", "args.sizes": (2, 3)}.items()
    assert unwrap(tensors).keys() == model.state_dict().keys()


def test_parameters_with_attributes(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.no_weight_decay = True
    torch.save({"w": weight, "b": torch.nn.Buffer(torch.zeros(3))}, tmp_path / "x")
    check(tmp_path / "x", {"w": weight, "b": torch.zeros(3)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path):
    model = Model().half()
    torch.jit.save(torch.jit.script(model), tmp_path / "scripted.pt")
    torch.jit.save(torch.jit.trace(model.attention, torch.ones(1, 3).half()), tmp_path / "traced.pt")
    for path, module in [("scripted.pt", model), ("traced.pt", model.attention)]:
        tensors = open_tensors(tmp_path / path)
        state = module.state_dict()
        assert tensors.keys() == state.keys()
        assert all(equal(tensors[name].read(), value) for name, value in state.items())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_whole_modules_and_other_tensors_are_refused_by_name(save, tmp_path):
    for value, name in [
        (Model(), r"test_torch_files\.Model"),
        ({"w": torch.eye(2).to_sparse()}, r"torch\._utils\._rebuild_sparse_tensor"),
        ({"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, r"torch\.\S*(QInt8Storage|_rebuild_qtensor)"),
        ({"w": torch.ones(2), "f": torch.nn.functional.gelu}, r"torch\.\S*gelu"),
    ]:  # fmt: skip
        save(value, tmp_path / "x")
        with pytest.raises(ConfigError, match=f"names '{name}', .*nothing was run"):
            open_tensors(tmp_path / "x")


def test_conjugated_tensors_are_refused(tmp_path):
    torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "x")
    with pytest.raises(ConfigError, match="conjugated"):
        open_tensors(tmp_path / "x")


def test_files_of_torch_cut_off(save, tmp_path):
    path = tmp_path / "x"
    save(Model().state_dict(), path)
    whole = path.read_bytes()
    for hundredth in range(100):
        path.write_bytes(whole[: len(whole) * hundredth // 100])
        with pytest.raises(ConfigError) as caught:
            [found.read() for found in open_tensors(path).values()]
        assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_without_checksums(tmp_path):
    """torch can leave them out."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(5)}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    check(tmp_path / "x", {"w": torch.arange(5)})
