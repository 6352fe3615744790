"""Brings points to workers in batches, and every row back; a worker that dies loses none."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from aquasim.errors import UserError
from aquasim.sweep.base import Point, fingerprint
from aquasim.sweep.executors import Backend
from aquasim.sweep.worker import DIED_TEXT, Batch, OtherSourceError, Reply, Row, row_of, run_batch

BATCH_S = 0.25
"""Seconds that a batch should take: long against a round trip, short against what a kill costs."""
LARGEST = 64
AHEAD = 2
"""Batches per worker that are out, so that none waits."""
CHANCES = 2
"""Times a point is tried alone after its worker died in company."""


Sink = Callable[[Sequence[Row]], None]


class Driver:
    """Runs points of one scenario on a backend; `cpu_s` and `busy_s` add up processor time and time they took."""

    def __init__(self, backend: Backend, data: Mapping[str, Any], sink: Sink) -> None:
        self._backend, self._data, self._sink = backend, data, sink
        self.cpu_s = self.busy_s = 0.0
        self._points = 0
        self._left: deque[Point] = deque()
        self._suspects: deque[tuple[Point, int]] = deque()
        self._out: dict[Future[Reply], tuple[Point, ...]] = {}

    def run(self, points: Iterable[Point]) -> None:
        """Run points; `sink` gets each batch's rows as it ends, in any order.

        Raises:
            UserError: a worker has another version of aquasim.
        """
        self._left.extend(points)
        while self._left or self._out:
            while self._left and len(self._out) < AHEAD * self._backend.workers:
                self._submit(tuple(self._left.popleft() for _ in range(min(self._size(), len(self._left)))))
            self._collect()
        while self._suspects:
            self._alone(*self._suspects.popleft())

    def _size(self) -> int:
        """Return how many points make a batch: enough to last, few enough that all end together."""
        each = self.cpu_s / self._points if self._points else BATCH_S
        fair = len(self._left) // (AHEAD * self._backend.workers) + 1
        return max(1, min(int(BATCH_S / max(each, 1e-6)), LARGEST, fair))

    def _submit(self, points: tuple[Point, ...]) -> None:
        batch = Batch(fingerprint(), self._data, points)
        try:
            self._out[self._backend.executor.submit(run_batch, batch)] = points
        except BrokenExecutor:
            self._left.extendleft(reversed(points))
            self._renew()

    def _collect(self) -> None:
        """Take what has ended; if a worker died, everything that was out is suspected."""
        done, _ = wait(self._out, return_when=FIRST_COMPLETED) if self._out else (set(), None)
        broken = False
        for future in done:
            points = self._out.pop(future)
            try:
                self._take(future.result())
            except BrokenExecutor:
                broken = True
                self._suspects.extend((point, 1) for point in points)
            except OtherSourceError as error:
                raise UserError(str(error)) from None
        if broken:
            self._renew()

    def _renew(self) -> None:
        for future, points in self._out.items():
            wait([future])
            if future.exception() is None:
                self._take(future.result())
            else:
                self._suspects.extend((point, 1) for point in points)
        self._out.clear()
        self._backend.renew()

    def _alone(self, point: Point, chance: int) -> None:
        """Run a suspect with nobody else, so that it is known whose fault it is."""
        try:
            batch = Batch(fingerprint(), self._data, (point,))
            self._take(self._backend.executor.submit(run_batch, batch).result())
        except BrokenExecutor:
            self._backend.renew()
            if chance < CHANCES:
                self._suspects.append((point, chance + 1))
            else:
                self._sink([row_of(point, DIED_TEXT)])

    def _take(self, reply: Reply) -> None:
        self.cpu_s += reply.cpu_s
        self.busy_s += reply.busy_s
        self._points += len(reply.rows)
        self._sink(reply.rows)
