"""A progress bar for what takes longer than two seconds, on a terminal only."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

PATIENCE_S = 2.0


class Bar:
    """Shows one line per system, from two seconds on; silent where stderr is not a terminal."""

    def __init__(self, systems: list[str]) -> None:
        self._systems = systems
        self._started = time.monotonic()
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, system: str) -> Callable[[float], None] | None:
        """Return what a simulation calls with the share of its workload that has arrived, or None."""
        if not sys.stderr.isatty():
            return None

        def show(share: float) -> None:
            if time.monotonic() - self._started > PATIENCE_S:
                self._show(system, share)

        return show

    def _show(self, system: str, share: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if system not in self._tasks:
            from aquasim.cli.text import shown

            self._tasks[system] = self._bar.add_task(shown(system), total=1.0)
        self._bar.update(self._tasks[system], completed=share)
