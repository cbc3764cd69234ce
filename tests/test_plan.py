"""The command on the devices present; and, where libtpu is installed, on TPUs that are not."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from vision_jax import plan
from vision_jax.errors import ConfigError
from vision_jax.planning import plans

TINY = [
    "--config=configs/vit_digits.py",
    "--config.model.width=32",
    "--config.model.depth=1",
    "--config.model.num_heads=2",
    "--config.model.mlp_dim=64",
]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_report_of_the_devices_present(capsys):
    assert plan.run([*TINY, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["fits"] and report["device_kind"] == "cpu" and report["devices"] == 8
    assert report["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert report["measured_step"] > 0 and report["estimate"] is None
    assert report["steps"] == round(60 * 1437 / 64)
    assert report["hours"] == pytest.approx(report["steps"] * report["measured_step"] / 3600)
    assert report["device_hours"] == pytest.approx(8 * report["hours"])
    assert report["images_per_second"] == pytest.approx(64 / report["measured_step"])
    assert {c["kind"] for c in report["collectives"]} == {"all-reduce"}
    assert report["mfu"] is None
    assert plan.run([*TINY, "--config.log.peak_tflops=0.01"])
    text = capsys.readouterr().out
    assert "measured" in text and "MFU" in text and ": fits" in text


def test_what_does_not_fit_is_told(capsys, monkeypatch):
    monkeypatch.setattr(plans, "device_memory", lambda devices: 200_000)
    assert not plan.run(TINY)
    assert "DOES NOT FIT" in capsys.readouterr().out
    monkeypatch.setattr(plans, "device_memory", lambda devices: 1000)
    monkeypatch.setattr(plans, "compile_plan", None)  # not needed
    assert not plan.run(TINY)
    assert "the state alone does not fit" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["plan", *TINY])
    with pytest.raises(SystemExit) as stop:
        plan.main()
    assert stop.value.code == 1


def test_search_sorts_by_time_and_marks_what_does_not_fit(capsys, monkeypatch):
    steps = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("vision_jax.planning.measuring.measure_step", lambda setup, compiled: next(steps))
    assert plan.run([*TINY, "--search", "--trials=3", "--config.mesh.fsdp_min_size=1024"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "none" in line]
    assert len(rows) == 3 and len({row[:16] for row in rows}) == 3
    assert [float(row.split()[8]) for row in rows] == [1000.0, 2000.0, 3000.0]
    monkeypatch.setattr(plans, "device_memory", lambda devices: 200_000)
    assert not plan.run([*TINY, "--search", "--trials=2"])
    assert capsys.readouterr().out.count("does not fit") == 2


def test_neither_data_nor_vocabulary_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(plans, "compile_plan", lambda setup: (_ for _ in ()).throw(plans.DoesNotFit(2**40)))
    for config in ("mae_vitb.py", "clip_vitb32.py:laion", "vit_b16_augreg.py:i21k"):
        assert not plan.run([f"--config=configs/{config}", "--json", "--config.data.tfds_dir=/nonexistent"])
        report = json.loads(capsys.readouterr().out)
        assert report["memory"]["needed"] == 2**40 and report["hours"] is None
    assert report["steps"] == round(300 * (14_197_122 - 51_200) / 4096)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5f:2x2"], "no TPU 'v5f'"),
        (["--trials=0"], "--trials"),
        (["--workdir=x"], "--workdir=x.*--topology"),
        (["--config.data.train=folder:nowhere"], "--examples=N --classes=N"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan.run([TINY[0], *arguments])


def test_libtpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(ConfigError, match=r"package 'libtpu', which is not installed: pip install \"jax\[tpu\]\""):
        plan.run([TINY[0], "--topology=v5e:2x2"])


def plan_for(topology: str, *arguments: str, before: str = "") -> tuple[int, dict]:
    """Exit status and report of the command in a process of its own, as libtpu wants it, after the statement `before`."""
    pytest.importorskip("libtpu")
    program = f"from vision_jax import plan\n{before}\nplan.main()"
    command = [sys.executable, "-c", program, "--json", f"--topology={topology}", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    if before:
        environment["JAX_PLATFORMS"] = "cpu"  # as the command sets it itself, where nothing imports jax earlier
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout)


def test_a_slice_that_is_not_there():
    status, report = plan_for("v5e:4x4", *TINY, "--config.precision.compute=bfloat16")
    assert status == 0 and report["fits"] and report["devices"] == 16
    assert report["estimate"]["cycles"] > 0 and report["measured_step"] is None
    assert report["estimate"]["step"] >= report["estimate"]["roofline"] > 0
    assert {c["group"] for c in report["collectives"] if c["kind"] == "all-reduce"} == {16}


@pytest.mark.slow
def test_meshes_may_divide_an_axis_of_the_torus():
    for topology in ("v5e:4x4", "v5e:4x4*2"):
        status, report = plan_for(topology, *TINY, "--config.mesh.fsdp=8")
        assert status == 0 and report["mesh"] == {"data": report["devices"] // 8, "fsdp": 8, "tensor": 1}


@pytest.mark.slow
def test_two_slices_exchange_gradients_alone():
    status, report = plan_for("v5e:2x2*2", *TINY)
    assert status == 0 and report["devices"] == 8
    across = [c for c in report["collectives"] if c["slices"] > 1]
    assert across and all(c["kind"] != "all-gather" for c in across)


@pytest.mark.slow
def test_too_large_a_batch_does_not_fit():
    arguments = ["--config=configs/vit_s16.py", "--config.batch_size=8192", "--config.model.scan=True"]
    status, report = plan_for("v5e:2x2", *arguments)
    assert status == 1 and not report["fits"]
    assert report["memory"]["needed"] > report["memory"]["capacity"] == 16 * 2**30


@pytest.mark.slow
def test_unpinned_activations_of_a_scanned_sharded_vit_l_are_caught():
    """ViT-L/16 on 256 chips with fsdp: the scan's carry loses its sharding over the batch unless `pin_batch` keeps it."""
    arguments = ["--config=configs/vit_s16.py", "--config.model.name=vit_l16", "--config.model.scan=True"]
    arguments += ["--config.batch_size=4096", "--config.mesh.data=1", "--config.mesh.fsdp=-1"]
    status, report = plan_for("v5e:16x16", *arguments)
    assert status == 0 and report["memory"]["needed"] < 12e9
    unpin = "import vision_jax.ops.sharding as sharding; sharding.batch_axes = lambda size: ()"
    status, report = plan_for("v5e:16x16", *arguments, before=unpin)
    assert status == 1 and report["memory"]["needed"] > 200e9
