"""Where the time of a run goes, and what its devices could compute in it."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence

SPANS = ("init", "compile", "data", "step", "eval", "checkpoint")
# The clock's metrics in metrics.jsonl, in which two equal runs differ.
CLOCKED = ("train/images_per_second", "train/data_share", "train/mfu", "train/seconds")

# Dense bfloat16 TFLOP/s of one jax device (float16 if it has no bfloat16: V100, T4). Patterns match the start of
# `device.device_kind`; the first match counts. A TPU v2, v3 or 7x chip appears as two devices, the others as one.
# TPUs: docs.cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}; v4i: Jouppi et al., ISCA 2021.
# GPUs: NVIDIA's data sheets and architecture white papers, halved where they state structured sparsity.
PEAK_TFLOPS = (
    (r"TPU v2$", 45 / 2),
    (r"TPU v3$", 123 / 2),
    (r"TPU v4 lite$", 138),
    (r"TPU v4$", 275),
    (r"TPU v5( lite|e)$", 197),
    (r"TPU v5p?$", 459),
    (r"TPU v6( lite|e)$", 918),
    (r"TPU7x$", 2307 / 2),
    (r"NVIDIA GB200", 2500),
    (r"NVIDIA B200", 2250),
    (r"NVIDIA GH200", 989.4),
    (r"NVIDIA H200 NVL", 835),
    (r"NVIDIA H200", 989.4),
    (r"NVIDIA H100 PCIe", 756),
    (r"NVIDIA H100 NVL", 835),
    (r"NVIDIA H100", 989.4),
    (r"NVIDIA A100", 312),
    (r"NVIDIA A40", 149.7),
    (r"NVIDIA A30", 165),
    (r"NVIDIA A10G", 70),
    (r"NVIDIA A10$", 125),
    (r"NVIDIA L40S", 362),
    (r"NVIDIA L40$", 181),
    (r"NVIDIA L4$", 121),
    (r"Tesla V100-PCIE", 112),
    (r"Tesla V100", 125),
    (r"Tesla T4$", 65),
)


def peak_flops(devices: Sequence, tflops: float = 0.0) -> float | None:
    """Peak FLOP/s of all `devices` together, each of `tflops` (`config.log.peak_tflops`), or if that is 0, the dense
    bfloat16 peak of its kind; None if that is not known."""
    kind = devices[0].device_kind
    known = (peak for pattern, peak in PEAK_TFLOPS if re.match(pattern, kind))
    tflops = tflops or next(known, None)
    return tflops and tflops * 1e12 * len(devices)


class Spans:
    """Assigns every second of wall time to exactly one of `SPANS`, or to "other" outside them.

        with spans("data"):
            batch = next(batches)

    An inner span's time is not counted in the outer one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds = dict.fromkeys((*SPANS, "other"), 0.0)
        self._open = ["other"]
        self._since = clock()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name not in SPANS:
            raise ValueError(f"unknown span {name!r}; known: {', '.join(SPANS)}")
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each span so far; they sum to the age of the object."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        now = self._clock()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now
