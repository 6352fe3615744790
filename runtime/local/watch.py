"""Watches the core that computes: how fast it is while a run goes on, and how long others had it."""

import time
from collections.abc import Callable

from aquasim.runtime.executor.worker import Pending, Threaded
from aquasim.runtime.local.probe import Probe

EVERY_S = 0.05
"""Between probes: each takes a few tenths of a millisecond of the engine's time."""


class Watch:
    """What is seen of one run's core. `probes` are (ns of the run, CPU seconds of the probe).

    `waited_ns` is how long steps had to wait for a core: their time less the CPU time of the thread that computes.
    With `exclude`, a run's clock leaves that out, as if no other program were on the machine.
    """

    def __init__(self, *, exclude: bool = False) -> None:
        self.exclude = exclude
        self.probes: list[tuple[int, float]] = []
        self.waited_ns = 0
        self.began_ns = 0
        self._last = 0.0
        self._probe = Probe()

    def begin(self) -> None:
        """The run starts now."""
        self.began_ns, self.waited_ns, self._last = time.monotonic_ns(), 0, 0.0
        self.probes.clear()

    def step(self, run: Callable[[], dict[int, int]]) -> dict[int, int]:
        """Compute a step in the worker's thread, now and then behind a probe."""
        if time.monotonic() - self._last > EVERY_S:
            self.probes.append((time.monotonic_ns() - self.began_ns, self._probe()))
            self._last = time.monotonic()
        wall, cpu = time.monotonic_ns(), time.thread_time_ns()
        tokens = run()
        self.waited_ns += max(0, time.monotonic_ns() - wall - (time.thread_time_ns() - cpu))
        return tokens


class Watched(Threaded):
    """Computes in a thread of its own, under watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """See Worker."""
        return super().start(lambda: self._watch.step(step))
