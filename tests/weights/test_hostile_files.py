"""Files made to take hours, gigabytes or a program by surprise: each ends in one line, or in a model where it holds one.

The files and the mutations are those of experiments/faults, whose commands measure seconds and memory, case by case.
"""

import io
import json
import logging
import pathlib
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hand_made import archive, npz, pickled, safetensors, tensor

import vision_jax as vj
from vision_jax import limits
from vision_jax.errors import ConfigError, Stopped
from vision_jax.weights.readers import open_tensors
from vision_jax.weights.sources import open_weights

FAULTS = pathlib.Path(__file__).parents[2] / "experiments" / "faults"
sys.path.insert(0, str(FAULTS))
import fuzz_weights  # noqa: E402
import hostile_cases  # noqa: E402

MUTATIONS = 60  # a reader; 10,000 are those of fuzz_weights.py
# Opens every case by its number in one process that may not grow by more than the bound of the largest file among them.
CHILD = """
import json, pathlib, re, resource, signal, sys, tempfile
sys.path.insert(0, sys.argv[1])
import numpy as np
import hostile_cases
from vision_jax.weights.readers import open_tensors
for name in json.loads(sys.argv[2]):
    with tempfile.TemporaryDirectory() as folder:
        path = hostile_cases.FILES[name](pathlib.Path(folder))
        used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
        size = 512 * path.stat().st_blocks if path.is_file() else 0
        limit = used + 2**29 + 2 * size + 2**26  # Python's own arenas besides
        resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
        signal.alarm(60)  # against a hang
        try:
            said = ["read", len([np.array(tensor.read()) for tensor in open_tensors(path).values()])]
        except Exception as error:
            said = [type(error).__name__, str(error)]
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print(json.dumps([name, *said]), flush=True)
"""
READ = {".pth: a tuple of 2**200 leaves", ".pth: a tuple of 2**200 leaves as a key"}  # beside them is a tensor


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    fuzz_weights.make_folders(folder)
    return folder


def check_files(names: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(FAULTS), json.dumps(names)], capture_output=True, text=True, timeout=600
    )
    opened = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in opened] == names, done.stderr
    for name, kind, said in opened:
        assert (kind, said) == ("read", 1) if name in READ else kind == "ConfigError" and said.isprintable(), (
            name,
            kind,
            said,
        )


def is_quick(name: str) -> bool:
    return not any(word in name for word in ("million", "00,000", "60,000", "20,000", " GB", " MB", "may hold"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory, and holes of files, are Linux's here")
def test_every_hostile_file():
    check_files([name for name in hostile_cases.FILES if is_quick(name)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory, and holes of files, are Linux's here")
def test_every_large_hostile_file():
    check_files([name for name in hostile_cases.FILES if not is_quick(name)])


@pytest.fixture
def changed(folders, tmp_path):
    """A copy of the valid folders for a case to change."""
    hostile_cases.copied(folders, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [name for name in hostile_cases.MODELS if " of a run" in name or "=1000000000" in name]
)
def test_descriptions_that_no_model_can_have(changed, name):
    source = hostile_cases.MODELS[name](changed)
    with pytest.raises(ConfigError) as caught:
        open_weights(source)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_cases.MODELS)
def test_every_hostile_model(changed, name):
    try:
        vj.load_pretrained(hostile_cases.MODELS[name](changed))
    except ConfigError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("reader", ["npz", "safetensors", "torch zip", "torch legacy", "TorchScript"])
def test_mutated_files(reader, tmp_path):
    data, mutate = fuzz_weights.tensor_files()[reader]
    (tmp_path / "weights").write_bytes(data)
    assert open_tensors(tmp_path / "weights")
    check_mutations(
        fuzz_weights.Reader(tmp_path, "weights", mutate, fuzz_weights.read_all, "weights"), reader, 4 * MUTATIONS
    )


def test_mutated_json(changed, caplog):
    caplog.set_level(logging.CRITICAL)
    for name, reader in fuzz_weights.readers(changed).items():
        if "json" in name:
            reader.read(reader.folder / reader.source, 1)  # as it is valid
            check_mutations(reader, name, MUTATIONS)


def check_mutations(reader, name: str, count: int) -> None:
    outcomes = dict(fuzz_weights.outcomes(reader, name, range(1, count + 1)))
    assert {case: said for case, said in outcomes.items() if said not in ("ok", "ConfigError")} == {}
    assert "ConfigError" in outcomes.values()


@pytest.mark.parametrize("change", ["a named pipe", "a socket", "a device", "a folder"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file(changed, change, name):
    (changed / "vit" / name).unlink()
    hostile_cases.KINDS[change](changed / "vit" / name)
    with pytest.raises(ConfigError, match=f"{name}.* cannot be read"):
        vj.load_pretrained(changed / "vit")


@pytest.mark.parametrize(
    "text", ["a named pipe", b'{"image_mean": [1, "\x1b"]}', b"[" * 10**6, b'{"size": {"shortest_edge": 1e400}}']
)
def test_a_processor_that_cannot_be_read_is_told(changed, text, caplog):
    path = changed / "vit" / "preprocessor_config.json"
    path.unlink()
    path.write_bytes(text) if isinstance(text, bytes) else hostile_cases.KINDS[text](path)
    assert open_weights(changed / "vit").preprocessing == {}
    assert "the way its pictures are prepared is not supported" in caplog.text and caplog.messages[0].isprintable()


def open_bytes(folder, data: bytes):
    (folder / "weights").write_bytes(data)
    return open_tensors(folder / "weights")


def test_checksums_of_torch_s_members(tmp_path):
    """Of those read whole, in parts, and of the pickle; and torch may leave all out."""
    values = np.arange(8, dtype=np.float32)
    parts = {str(i): tensor("FloatStorage", "0", 8, i, (1,), (1,)) for i in range(8)}
    for root in ({"w": tensor("FloatStorage", "0", 8, 0, (8,), (1,))}, parts):
        whole = archive(pickled(root), {"0": values.tobytes()})
        np.testing.assert_array_equal(np.ravel([t.read() for t in open_bytes(tmp_path, whole).values()]), values)
        place = whole.index(values.tobytes())
        damaged = whole[: place + 30] + bytes([whole[place + 30] ^ 1]) + whole[place + 31 :]
        opened = open_bytes(tmp_path, damaged)
        with pytest.raises(ConfigError, match="'archive/data/0' has not the checksum"):
            next(iter(opened.values())).read()
    with pytest.raises(ConfigError, match=r"'archive/data\.pkl' has not the checksum"):
        open_bytes(tmp_path, whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"))


def test_tensors_may_share_their_values_as_far_as_memory_allows(tmp_path, monkeypatch):
    """Tied, transposed and overlapping ones are read; a thousand copies of a file's content are not."""
    values = np.arange(10_000, dtype=np.float32)

    def root(count):
        return {str(i): tensor("FloatStorage", "0", 10_000, 0, (100, 100), (1, 100)) for i in range(count)}

    tied = open_bytes(tmp_path, archive(pickled(root(5)), {"0": values.tobytes()}))
    for found in tied.values():
        np.testing.assert_array_equal(found.read(), values.reshape(100, 100).T)
    monkeypatch.setattr(limits, "MEMORY", 100_000)
    with pytest.raises(ConfigError, match="reading its tensors takes 400,000 bytes of memory"):
        open_bytes(tmp_path, archive(pickled(root(10)), {"0": values.tobytes()}))


def test_compressed_members_are_read_as_far_as_memory_allows(tmp_path, monkeypatch):
    arrays = {"a": np.zeros(10_000, np.float32)}
    np.testing.assert_array_equal(open_bytes(tmp_path, npz(arrays, compression=1))["a"].read(), arrays["a"])
    monkeypatch.setattr(limits, "MEMORY", 10_000)
    with pytest.raises(ConfigError, match="reading its tensors takes 40,000 bytes of memory"):
        open_bytes(tmp_path, npz(arrays, compression=1))
    assert open_bytes(tmp_path, npz(arrays))["a"].shape == (10_000,)  # it has as much on the disk
    with pytest.raises(ConfigError, match="compressed in a way that is not read here"):
        open_bytes(tmp_path, npz_of(zipfile.ZIP_LZMA))


def npz_of(method: int) -> bytes:
    stream, content = io.BytesIO(), io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr("a.npy", content.getvalue())
    return stream.getvalue()


def test_parameters_are_counted_in_float32(tmp_path, folders, monkeypatch):
    """float8 takes four times its bytes, and what is expanded as many as it stands for."""
    shapes = {name: found.shape for name, found in open_tensors(folders / "timm vit").items()}
    root = {name: tensor("FloatStorage", "0", 1, 0, shape, (0,) * len(shape)) for name, shape in shapes.items()}
    (tmp_path / "weights.pt").write_bytes(archive(pickled(root), {"0": np.float32(0.5).tobytes()}))
    _, variables = vj.load_pretrained(tmp_path / "weights.pt", num_heads=1, act="gelu")
    assert np.all(np.asarray(variables["params"]["blocks_0"]["mlp"]["fc1"]["kernel"]) == 0.5)
    monkeypatch.setattr(limits, "MEMORY", 1000 - 2 * open_tensors(tmp_path / "weights.pt").on_disk)
    with pytest.raises(ConfigError, match=r"its parameters take .* bytes in float32"):
        vj.load_pretrained(tmp_path / "weights.pt", num_heads=1, act="gelu")


def test_parameters_are_numbers_with_a_fraction(tmp_path, changed):
    path = changed / "vit" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ConfigError, match="holds int32, but parameters are floating-point numbers"):
        vj.load_pretrained(changed / "vit")


def test_names_are_printed_escaped(tmp_path, changed, caplog):
    header = {"visual.\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    (tmp_path / "w.safetensors").write_bytes(safetensors(header, bytes(4)))
    with pytest.raises(ConfigError) as caught:
        vj.load_pretrained(tmp_path / "w.safetensors", text_act="gelu")
    assert str(caught.value).isprintable()
    path = changed / "vit" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "\x1b[31m" + "x" * 10**6}))
    with pytest.raises(ConfigError, match=r"the activation '\\\\?x1b\[31mx") as caught:
        vj.load_pretrained(changed / "vit")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000


def test_a_signal_is_no_fault_of_the_file(folders, monkeypatch):
    def stopped(*_):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("vision_jax.weights.sources.unwrap", stopped)
    with pytest.raises(Stopped):
        open_weights(folders / "vit")


def test_classes_of_a_run_are_texts(changed):
    path = changed / "run" / "config.json"
    assert open_weights(changed / "run").class_names == ("ant", "bee", "cat")
    config = json.loads(path.read_text())
    for names in ([1, 2, 3], "abc", {"a": 1}, [["ant"]]):
        path.write_text(json.dumps({**config, "derived": {"class_names": names}}))
        with pytest.raises(ConfigError, match=r"config\.json.*class_names must be a list of names"):
            open_weights(changed / "run")
