"""Pickles that try to run code are refused by name, and nothing of them runs."""

import os
import pickle
import subprocess

import hypothesis
import pytest
from hand_made import ORDERED_DICT, Call, Name, New, archive, legacy, pickled, tensor
from hypothesis import strategies as st

from vision_jax.errors import ConfigError
from vision_jax.weights.readers import open_tensors
from vision_jax.weights.tensors import File
from vision_jax.weights.torch_pickle import load

WEIGHT = tensor("FloatStorage", "0", 1, 0, (1,), (1,))


class Runs:
    """What pickle.loads would turn into a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def refused(tmp_path):
    """Asserts that a pickle is refused in every kind of file with a line that matches, and that no file was made."""

    def check(code: bytes, problem: str) -> None:
        files = [
            archive(code, {"0": bytes(4)}),
            archive(code, {"0": bytes(4)}, **{"constants.pkl": b"", "code/__torch__.py": b"import os"}),
            legacy(None, {}).replace(pickled(None), code, 1),
        ]
        for number, data in enumerate(files):
            path = tmp_path / f"{number}.pt"
            path.write_bytes(data)
            with pytest.raises(ConfigError, match=problem) as caught:
                open_tensors(path)
            assert str(caught.value).isprintable() and str(path) in str(caught.value)
        assert not (tmp_path / "marker").exists()

    return check


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_calls_of_python(refused, tmp_path, protocol, nested):
    marker = str(tmp_path / "marker")
    for name, attack in {
        r"(posix|nt)\.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({marker!r}, 'w')"),
        "exec": Runs(exec, f"open({marker!r}, 'w')"),
        r"\.open": Runs(open, marker, "w"),
        "getattr": Runs(getattr, int, "real"),
        "__import__": Runs(__import__, "antigravity"),
        r"\.Popen": Runs(subprocess.Popen, ["touch", marker]),
    }.items():
        value = {"model": {"w": [({"a": attack},)]}} if nested else attack
        refused(pickle.dumps(value, protocol), rf"names '\S*{name}'.*nothing was run")


def test_the_attacks_are_real(tmp_path):
    """Python's own unpickler does run such a pickle."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Runs(open, str(marker), "w"))).close()
    assert marker.exists()


@pytest.mark.parametrize(
    "module, name, shown",
    [
        ("torch", "_utils._rebuild_tensor_v2", r"torch\._utils\._rebuild_tensor_v2"),  # allowed only as it is written
        ("collections", "OrderedDict.__init__.__globals__", r"collections\.OrderedDict\.__init__\.__globals__"),
        ("torch.serialization", "os.system", r"torch\.serialization\.os\.system"),
        ("__torch__x", "M", r"__torch__x\.M"),
        ("__torch__", "os.system", r"__torch__\.os\.system"),
        ("__torch", "M", r"__torch\.M"),
        ("torch", "load", r"torch\.load"),
        ("torch.hub", "load", r"torch\.hub\.load"),
        ("numpy", "load", r"numpy\.load"),
        ("functools", "partial", r"functools\.partial"),
        ("timm.models.vision_transformer", "VisionTransformer", r"timm\.models\.vision_transformer\.VisionTransformer"),
        ("bad\x1bname", "a\nb" * 300, r"bad\\x1bname\.a\\nb"),
        ("", "", r"\."),
    ],
)
def test_names_that_look_alike(refused, module, name, shown):
    """By STACK_GLOBAL, whose names may have dots, spaces and line ends."""
    code = b"\x80\x04" + pickled(module)[2:-1] + pickled(name)[2:-1] + b"\x93."
    refused(code, f"names '{shown}")


def test_torchscript_classes_are_not_called(tmp_path):
    def opened(root, **more):
        (tmp_path / "x").write_bytes(archive(pickled(root), {"0": bytes(4)}, **more))
        return open_tensors(tmp_path / "x")

    script = {"constants.pkl": b""}
    kind = Name("__torch__.os", "system")
    assert list(opened(New(kind, {"w": WEIGHT}), **script)) == ["w"]
    with pytest.raises(ConfigError, match=r"calls '__torch__\.os\.system', which is no function"):
        opened(Call(kind, ("touch marker",)), **script)
    with pytest.raises(ConfigError, match=r"names '__torch__\.os\.system'"):
        opened(New(kind, {"w": WEIGHT}))


def test_opcodes_that_no_weights_need(refused, monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    refused(b"\x80\x02\x82\x01.", "opcode EXT1")
    refused(b"\x80\x02\x83\x01\x00.", "opcode EXT2")
    refused(b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4")
    refused(b"(S'touch marker'\nios\nsystem\n.", "opcode INST")
    refused(b"(cos\nsystem\nS'touch marker'\no.", r"names 'os\.system'")
    refused(b"(ccollections\nOrderedDict\no.", "opcode OBJ")
    refused(b"\x80\x02Pstorage\n.", "opcode PERSID")
    refused(b"\x80\x05\x97.", "opcode NEXT_BUFFER")


def state(value) -> bytes:
    return pickled(value)[2:-1]


@pytest.mark.parametrize(
    "code",
    [
        # BUILD with an allowed function or class: would set its attributes, for instance __code__ or __init__
        state(Name("torch._utils", "_rebuild_tensor_v2")) + state((None, {"__code__": 1})) + b"b",
        state(Name("argparse", "Namespace")) + state({"__init__": 1}) + b"b",
        state(Name("collections", "OrderedDict")) + state((None, {"__reduce__": 1})) + b"b",
        # calls of what is no function
        state("text") + b")R",
        state({"a": 1}) + b")R",
        state(ORDERED_DICT) + b")R",
        state(Name("torch", "FloatStorage")) + b"NR",
        # objects of what is no class
        state("text") + b")\x81",
        state(Name("torch._utils", "_rebuild_tensor_v2")) + b")\x81",
        # the memo: what was never put there, and the highest place, for which Python's own takes 32 GB
        b"h\x05",
        b"j\xff\xff\xff\x7f",
        state(1) + b"r\xff\xff\xff\x7f0j\xfe\xff\xff\x7f",
        # persistent ids that are no storage
        state("storage") + b"Q",
        state(("module", Name("torch", "FloatStorage"), "0", "cpu", 1)) + b"Q",
        state(("storage", "torch.FloatStorage", "0", "cpu", 1)) + b"Q",
        state(("storage", Name("argparse", "Namespace"), "0", "cpu", 1)) + b"Q",
        state(("storage", Name("torch", "FloatStorage"), 0, "cpu", 1)) + b"Q",
        # tensors of what is no storage
        state(Call(Name("torch._utils", "_rebuild_tensor_v2"), ("0", 0, (1,), (1,)))),
        state(Call(Name("torch._utils", "_rebuild_parameter"), ({"a": 1}, True, None))),
        state(Call(Name("torch._utils", "_rebuild_tensor_v2"), (WEIGHT, 0, (1,), (1,)))),
        state(Call(Name("torch._utils", "_rebuild_tensor_v2"), ())),
        # an empty stack, a mark that is not there, two results
        b"", b"0", b"2", b"t", b"e", b"u", b"s", b"R", b"b", b"\x81", b"\x93", b"Q", b"NN", b"(N", b"\x85", b"(\x87", b"]a", b"K\x01]a",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"\xff",
    ],
)  # fmt: skip
def test_pickles_of_no_sense(refused, code):
    refused(b"\x80\x04" + code + b".", "damaged or cut off: the pickle cannot be read|holds no tensors")


def test_pickles_without_end(refused):
    """Dicts that contain themselves, or each other in numbers that double with every level."""
    refused(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "contain themselves, or have no end")
    refused(b"\x80\x02}q\x00X\x00\x00\x00\x00h\x00s.", "contain themselves, or have no end")
    doubled = b"\x80\x02}q\x000"
    for level in range(60):
        doubled += b"}(K\x00h%cK\x01h%cuq%c0" % (level, level, level + 1)
    refused(doubled + b"h\x3c.", "contain themselves, or have no end")


def test_keys_that_take_for_ever_to_hash(tmp_path):
    code = b")q\x00"
    for level in range(80):  # a tuple with 2**80 leaves
        code += b"h%ch%c\x86q%c0" % (level, level, level + 1)
    code = b"\x80\x02" + code + b"0}(h\x50K\x01" + state("w") + state(WEIGHT) + b"u."
    (tmp_path / "x").write_bytes(archive(code, {"0": bytes(4)}))
    assert list(open_tensors(tmp_path / "x")) == ["w"]


@hypothesis.given(st.binary(max_size=200), st.booleans())
@hypothesis.settings(
    deadline=None, max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_bytes_at_all(tmp_path, code, is_script):
    (tmp_path / "x").write_bytes(b"")
    try:
        load(code, File(tmp_path / "x"), is_script)
    except ConfigError as error:
        assert str(error).isprintable()


OPCODES = [b"(", b"}", b"]", b")", b"0", b"1", b"2", b"N", b"\x88", b"K\x01", b"X\x01\x00\x00\x00a", b"q\x00", b"h\x00", b"t", b"u",
           b"s", b"e", b"a", b"l", b"d", b"R", b"b", b"\x81", b"\x92", b"\x85", b"\x86", b"\x87", b"Q", b"\x93", b"\x94", b"\x90", b"\x91",
           b"\x8f", *map(state, (WEIGHT, ORDERED_DICT, Name("argparse", "Namespace"), Name("torch._utils", "_rebuild_tensor_v2")))]  # fmt: skip


@hypothesis.given(st.lists(st.sampled_from(OPCODES), max_size=30))
@hypothesis.settings(
    deadline=None, max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_opcodes_in_any_order(tmp_path, codes):
    (tmp_path / "x").write_bytes(archive(b"\x80\x04" + b"".join(codes) + b".", {"0": bytes(4)}))
    try:
        for found in open_tensors(tmp_path / "x").values():
            found.read()
    except ConfigError as error:
        assert str(error).isprintable()


def test_settings_beside_the_weights_stay_inert(tmp_path):
    """Objects of known classes are kept as plain fields; none of their code is run, nor is a module imported."""
    root = {
        "w": WEIGHT,
        "config": New(Name("yacs.config", "CfgNode"), {"IMG_SIZE": 224, "__setstate__": "x", "__class__": "y"}),
        "args": New(Name("argparse", "Namespace"), {"lr": 0.5, "dir": Call(Name("pathlib", "PosixPath"), ("a", "b"))}),
        "best": Call(Name("numpy.core.multiarray", "scalar"), (Name("numpy", "dtype"), "x")),
    }
    (tmp_path / "x").write_bytes(archive(pickled(root), {"0": bytes(4)}))
    assert open_tensors(tmp_path / "x").metadata == {
        "config.IMG_SIZE": 224, "config.__setstate__": "x", "config.__class__": "y", "args.lr": 0.5,
    }  # fmt: skip
