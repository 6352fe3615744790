"""Where steps are computed: in the caller's thread, or beside it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Pending(Protocol):
    """A step under way."""

    def done(self) -> bool:
        """Whether its tokens are there."""

    def result(self) -> dict[int, int]:
        """Return who got which token; what the step raised is raised here."""


class Worker(Protocol):
    """Computes steps, one at a time."""

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """Begin to compute a step."""


class Finished:
    """A step that is computed."""

    def __init__(self, tokens: dict[int, int]) -> None:
        self._tokens = tokens

    def done(self) -> bool:
        """See Pending."""
        return True

    def result(self) -> dict[int, int]:
        """See Pending."""
        return self._tokens


class Inline:
    """Computes at once, in the caller's thread."""

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """See Worker."""
        return Finished(step())


class Threaded:
    """Computes in a thread of its own; close it after use."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "compute")

    def start(self, step: Callable[[], dict[int, int]]) -> Pending:
        """See Worker."""
        return self._pool.submit(step)

    def close(self) -> None:
        """End the thread once its step is computed."""
        self._pool.shutdown()
