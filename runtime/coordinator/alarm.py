"""When a machine's `wake_at()` has come, on an event loop."""

import asyncio
from collections.abc import Callable

MS = 1_000_000


class Alarm:
    """Calls `ring` at one time at most, the one set last: ns of `time.monotonic_ns`, which is asyncio's clock too."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._when: int | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: int | None) -> None:
        """Ring at `when`, or not at all."""
        if when == self._when:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        # A millisecond late: a timer may fire as much as its resolution early, and would be set again at once.
        self._handle = None if when is None else self._loop.call_at((when + MS) / 1e9, self._rung)

    def _rung(self) -> None:
        self._when = self._handle = None
        self._ring()
