"""Has points simulated that are not stored yet."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aquasim.sweep import parts
from aquasim.sweep.base import Point
from aquasim.sweep.drive import Driver
from aquasim.sweep.executors import Backend
from aquasim.sweep.worker import FAILED, OK, Row

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
"""Called with points done and points to do, since the beginning."""


class Shelf(Protocol):
    """Where rows are kept: a `Store`, or `Memory`."""

    status: dict[str, str]

    def append(self, rows: Iterable[Row]) -> None:
        """Keep rows."""

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return rows by address; see `Store.frame`."""


class Memory:
    """Rows of this process, for as long as it lasts."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self._rows: list[Row] = []

    def append(self, rows: Iterable[Row]) -> None:
        """Keep rows."""
        for row in rows:
            self._rows.append(row)
            self.status[row["key"]] = row["status"]

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return rows by address; see `Store.frame`."""
        return parts.frame((), self._rows, columns)


class Evaluator:
    """Runs what a shelf does not have, each address once; `ran` and `found` count points."""

    def __init__(
        self,
        data: Mapping[str, Any],
        backend: Backend,
        shelf: Shelf,
        progress: Progress | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.shelf = shelf
        self.ran = self.found = 0
        self._progress = progress or (lambda done, of: None)
        self._driver = Driver(backend, data, self._keep)
        self._todo = 0
        self._done = set[str]()
        """Addresses that need not be run, or not again."""
        good = (OK,) if retry_failed else (OK, FAILED)
        self._done |= {key for key, status in shelf.status.items() if status in good}

    @property
    def cpu_s(self) -> float:
        """Processor time of the simulations so far, in all workers."""
        return self._driver.cpu_s

    def ensure(self, points: Iterable[Point]) -> None:
        """Return when every point has a row on the shelf.

        Raises:
            UserError: rows cannot be stored, or workers are of another version.
        """
        wanted = {point.key: point for point in points}
        todo = [point for key, point in wanted.items() if key not in self._done]
        self.found += len(wanted) - len(todo)
        self._done |= wanted.keys()
        self._todo += len(todo)
        if todo:
            self._progress(self.ran, self._todo)
            self._driver.run(todo)

    def _keep(self, rows: Sequence[Row]) -> None:
        self.shelf.append(rows)
        self.ran += len(rows)
        self._progress(self.ran, self._todo)
