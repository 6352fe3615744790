"""Threads of a trace: their names, their order, and where each slice goes."""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from aquasim.records.run import Columns
from aquasim.records.stats import Ints

Event = dict[str, Any]

BATCH = 4096
"""Rows turned into Python numbers at a time."""
FIRST_THREAD = 1001
"""Viewers take a thread numbered as its process for the main one, so threads start where processes do not reach."""
SIDE_BY_SIDE = 10_000
"""Room for threads of one name in the order of threads."""


def thread_numbers() -> Iterator[int]:
    """Give numbers for threads: viewers mix up equal ones of several processes."""
    return count(FIRST_THREAD)


def rows(columns: Columns, picked: Ints) -> Iterator[dict[str, int]]:
    """Give rows as dictionaries of plain numbers, a batch at a time."""
    for start in range(0, len(picked), BATCH):
        batch = [column[picked[start : start + BATCH]].tolist() for column in columns.values()]
        for values in zip(*batch, strict=True):
            yield dict(zip(columns, values, strict=True))


def us(nanoseconds: int) -> float:
    """Return microseconds, as traces have them."""
    return nanoseconds / 1000


def plain(name: str) -> str:
    """Return a name that can be written as UTF-8."""
    return name.encode("utf-8", "replace").decode("utf-8")


def slice_event(pid: int, tid: int, name: str, start: int, end: int, args: dict[str, Any]) -> Event:
    """Return a complete slice, from and to nanoseconds."""
    times = {"ts": us(start), "dur": us(end - start)}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, **times, "args": args}


def counter(pid: int, name: str, time: int, value: float) -> Event:
    """Return what a counter says from a time (nanoseconds) on."""
    return {"ph": "C", "name": name, "pid": pid, "ts": us(time), "args": {"value": value}}


def metadata(kind: str, pid: int, tid: int, **args: Any) -> Event:
    """Return a name or a place in the order."""
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}


def process(pid: int, name: str) -> Iterator[Event]:
    """Give a process its name and place."""
    yield metadata("process_name", pid, 0, name=plain(name))
    yield metadata("process_sort_index", pid, 0, sort_index=pid)


class Track:
    """Slices under one name, in order of start; those that overlap go to threads of their own."""

    def __init__(self, pid: int, name: str, order: int, numbers: Iterator[int]) -> None:
        self.pid, self.name, self._order, self._numbers = pid, name, order, numbers
        self._tids: list[int] = []
        self._lanes = _Lanes()

    def put(self, name: str, start: int, end: int, args: dict[str, Any]) -> Iterator[Event]:
        """Give a slice, after the names of its thread if that is new."""
        lane = self._lanes.place(start, end)
        if lane == len(self._tids):
            self._tids.append(next(self._numbers))
            title = plain(f"{self.name} {lane + 1}" if lane else self.name)
            yield metadata("thread_name", self.pid, self._tids[lane], name=title)
            place = self._order * SIDE_BY_SIDE + lane
            yield metadata("thread_sort_index", self.pid, self._tids[lane], sort_index=place)
        yield slice_event(self.pid, self._tids[lane], plain(name), start, end, args)


class _Lanes:
    """Intervals in order of start, each put on the lowest lane that is free."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._busy: list[tuple[int, int]] = []
        self._count = 0

    def place(self, start: int, end: int) -> int:
        while self._busy and self._busy[0][0] <= start:
            heappush(self._free, heappop(self._busy)[1])
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        lane = heappop(self._free)
        heappush(self._busy, (max(end, start + 1), lane))
        return lane
