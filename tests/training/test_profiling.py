import jax
import jax.numpy as jnp
import pytest

from vision_jax.errors import ConfigError
from vision_jax.training.profiling import Profiler


def test_profiler_traces_its_window_and_nothing_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(("start", folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profiler = Profiler(tmp_path, 3, 2)
    for step in range(1, 8):
        with profiler.step(step):
            calls.append(step)
    profiler.close()
    assert calls == [1, 2, ("start", tmp_path), 3, 4, "stop", 5, 6, 7]

    calls.clear()
    profiler = Profiler(tmp_path, 3, 4)  # resumed within the window, and over before its end
    for step in (5, 6):
        with profiler.step(step):
            calls.append(step)
    profiler.close()
    profiler.close()
    assert calls == [("start", tmp_path), 5, 6, "stop"]


def test_profiler_writes_a_trace_with_named_steps(tmp_path):
    profiler = Profiler(tmp_path / "profile", 1, 1)
    with profiler.step(1):
        jnp.arange(8).sum()
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes()


@pytest.mark.parametrize("window", [(1,), (1, 0), (-1, 2), (1, 2, 3), (1.5, 2)])
def test_profiler_window_is_checked(tmp_path, window):
    with pytest.raises(ConfigError, match=r"log\.profile"):
        Profiler(tmp_path, *window)
