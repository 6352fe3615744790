"""Flows: the slices that a request goes through, in order, as arrows from one to the next."""

from collections.abc import Iterator

import numpy as np

from aquasim.records.perfetto.tracks import BATCH, Event, us
from aquasim.records.stats import Ints

PHASES = "stf"
"""Start, step and finish of a flow, as trace events call them."""

Points = Iterator[tuple[int, int, int]]
"""(slice, row of the request, which of `PHASES`), by slice."""


class Flows:
    """Points of requests on slices: collected for every kind of slice first, then given slice by slice."""

    def __init__(self, requests: Ints, first: int) -> None:
        """Take the ids of an engine's requests; their flows are numbered from `first`."""
        self._requests, self._first = requests, first
        self._order = np.argsort(requests, kind="stable")
        self._parts: list[tuple[Ints, Ints, Ints]] = []

    def add(self, slices: Ints, requests: Ints, starts: Ints) -> None:
        """Note that slices (numbers within their kind) that begin at `starts` are part of requests' lives.

        Of points at one instant, those of the kind added first come first.
        """
        known = np.isin(requests, self._requests)
        place = np.searchsorted(self._requests, requests[known], sorter=self._order)
        rows = self._order[place] if known.any() else requests[:0]
        self._parts.append((rows, starts[known], slices[known]))

    def close(self) -> list[Points]:
        """Return the points of each kind, in the order in which kinds were added."""
        codes = np.repeat(np.arange(len(self._parts)), [len(part[0]) for part in self._parts])
        rows, starts, slices = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        order = np.lexsort((slices, codes, starts, rows))
        rows, codes, slices = rows[order], codes[order], slices[order]
        same = (rows[1:] == rows[:-1]) & (codes[1:] == codes[:-1]) & (slices[1:] == slices[:-1])
        once = np.concatenate((np.ones(min(1, len(rows)), np.bool_), ~same))
        rows, codes, slices = rows[once], codes[once], slices[once]
        edge = np.concatenate(([True], rows[1:] != rows[:-1], [True]))
        first, last = edge[: len(rows)], edge[1 : len(rows) + 1]
        phase = np.where(first, 0, np.where(last, 2, 1))
        kept = ~(first & last)  # of one point no arrow can be drawn
        return [
            _points(rows, slices, phase, np.flatnonzero(kept & (codes == code)))
            for code in range(len(self._parts))
        ]

    def event(self, row: int, phase: int, pid: int, tid: int, start: int) -> Event:
        """Return a point as an event at the start of its slice."""
        where = {"pid": pid, "tid": tid, "ts": us(start)}
        name = f"request {self._requests[row]}"
        event = {"ph": PHASES[phase], "cat": "request", "name": name, "id": self._first + row, **where}
        return {**event, "bp": "e"} if phase else event


def _points(rows: Ints, slices: Ints, phase: Ints, picked: Ints) -> Points:
    picked = picked[np.argsort(slices[picked], kind="stable")]
    for start in range(0, len(picked), BATCH):
        batch = picked[start : start + BATCH]
        yield from zip(slices[batch].tolist(), rows[batch].tolist(), phase[batch].tolist(), strict=True)
