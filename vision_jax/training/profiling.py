"""A profiler trace of a few training steps, to be opened with XProf, TensorBoard or Perfetto."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from vision_jax.errors import ConfigError


class Profiler:
    """Traces `count` steps from step `first` on into `folder`; a run that resumes among them traces the remaining ones.

        with profiler.step(step):
            state, metrics = train_step(state, batch)

    Raises:
        ConfigError: the window is neither empty nor two whole numbers, the second at least 1.
    """

    def __init__(self, folder: pathlib.Path, *window: int):
        window = window or (0, 1)  # step 0 never runs
        if len(window) != 2 or not all(isinstance(n, int) for n in window) or window[0] < 0 or window[1] < 1:
            raise ConfigError(f"config key 'log.profile' must be (first step, number of steps), got {window!r}")
        first, count = window
        self._folder, self._steps, self._tracing = folder, range(first, first + count), False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The context in which to dispatch a step. The window's last step waits until the devices are done with all
        dispatched work, since the trace would otherwise end before they began."""
        if step not in self._steps:
            yield
            return
        if not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Ends the trace, also if the end of the run cuts it short."""
        if self._tracing:
            self._tracing = False
            jax.block_until_ready(jax.live_arrays())
            jax.profiler.stop_trace()
