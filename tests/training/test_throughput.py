import types

import pytest

from vision_jax.training.throughput import Spans, peak_flops


def test_spans_account_for_every_second_once():
    now = 0.0
    spans = Spans(lambda: now)
    now += 2
    with pytest.raises(KeyError), spans("eval"):
        now += 3
        with spans("data"):
            now += 5
        now += 1
        raise KeyError
    now += 4
    assert {name: s for name, s in spans.seconds().items() if s} == {"eval": 4, "data": 5, "other": 6}
    with pytest.raises(ValueError, match=r"'dta'.*data"), spans("dta"):
        pass


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("TPU v4", 275),
        ("TPU v4 lite", 138),
        ("TPU v5", 459),
        ("TPU v5 lite", 197),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A40", 149.7),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-16GB", 125),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_known_peaks(kind, tflops):
    devices = [types.SimpleNamespace(device_kind=kind)] * 4
    assert peak_flops(devices) == (tflops and pytest.approx(4 * tflops * 1e12))
    assert peak_flops(devices, 10.0) == 4e13


def test_tpu_peaks_agree_with_jax():
    tpu_info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    infos = getattr(tpu_info, "get_tpu_info_for_chip", None)
    if infos is None:
        pytest.skip("this jax has no table of TPUs")
    for kind in ("TPU v4 lite", "TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x"):
        version = tpu_info.chip_version_from_device_kind(kind)
        info = infos(version, 2 if version.supports_megacore else 1)
        cores = 2 if version.supports_megacore else 1
        jax_peak = info.bf16_ops_per_second * cores
        assert peak_flops([types.SimpleNamespace(device_kind=kind)]) == pytest.approx(jax_peak, rel=0.02), kind
