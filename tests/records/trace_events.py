"""A strict reading of the Trace Event Format: what a viewer needs, and what makes arrows and tracks readable."""

import gzip
import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

Trace = dict[str, Any]
"""A file's JSON."""
Event = dict[str, Any]
Threads = dict[tuple[int, int], list[tuple[int, int]]]
"""(start, end) of the slices of each (pid, tid), in ns."""

KEYS = {
    "M": {"name", "pid", "tid", "ts", "args"},
    "X": {"name", "pid", "tid", "ts", "dur", "args"},
    "C": {"name", "pid", "ts", "args"},
    "b": {"name", "pid", "tid", "ts", "cat", "id"},
    "e": {"name", "pid", "tid", "ts", "cat", "id"},
    "s": {"name", "pid", "tid", "ts", "cat", "id"},
    "t": {"name", "pid", "tid", "ts", "cat", "id", "bp"},
    "f": {"name", "pid", "tid", "ts", "cat", "id", "bp"},
}
OPTIONAL: dict[str, set[str]] = {"b": {"args"}}
METADATA: dict[str, dict[str, type]] = {
    "process_name": {"name": str},
    "thread_name": {"name": str},
    "process_sort_index": {"sort_index": int},
    "thread_sort_index": {"sort_index": int},
}


def read(path: Path) -> Trace:
    """Return a trace file as JSON that says nothing twice and has no NaN."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    trace: Trace = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    return trace


def ns(microseconds: float) -> int:
    """Return nanoseconds, as a viewer keeps them."""
    return round(microseconds * 1000)


def check(trace: Trace) -> None:
    """Assert that a trace is well-formed in every event, thread, flow, counter and async track."""
    assert trace.keys() == {"displayTimeUnit", "otherData", "traceEvents"}
    events = trace["traceEvents"]
    for event in events:
        _event(event)
    threads = _threads(events)
    _names(events, threads)
    _flows(events, threads)
    _async(events)


def _event(event: Event) -> None:
    ph = event["ph"]
    assert KEYS[ph] <= event.keys() - {"ph"} <= KEYS[ph] | OPTIONAL.get(ph, set()), event
    assert isinstance(event["name"], str)
    assert event["name"]
    for key in ("pid", "tid"):
        assert type(event.get(key, 0)) is int
        assert event.get(key, 0) >= 0
    assert _number(event["ts"])
    assert event["ts"] >= 0
    assert isinstance(event.get("args", {}), dict)
    if ph == "X":
        assert _number(event["dur"])
        assert event["dur"] >= 0
    elif ph == "C":
        assert event["args"]
        assert all(map(_number, event["args"].values())), event
    elif ph == "M":
        (key, kind), *more = METADATA[event["name"]].items()
        assert not more
        assert event["args"].keys() == {key}
        assert type(event["args"][key]) is kind
        assert event["args"][key] != ""
    elif ph in "stf":
        assert type(event["id"]) is int
        assert event["id"] > 0
        assert event.get("bp", "e") == "e"


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _threads(events: list[Event]) -> Threads:
    """Return each thread's slices, which follow or contain each other and never cross."""
    threads: Threads = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start = ns(event["ts"])
            threads[event["pid"], event["tid"]].append((start, start + ns(event["dur"])))
    for slices in threads.values():
        slices.sort(key=lambda each: (each[0], -each[1]))
        open_: list[int] = []
        for start, end in slices:
            while open_ and open_[-1] <= start:
                open_.pop()
            assert not open_ or end <= open_[-1]
            open_.append(end)
    return threads


def _names(events: list[Event], threads: Threads) -> None:
    """Every process and thread with slices has one name and one place, and no two share a number."""
    given = [(e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M"]
    assert len(set(given)) == len(given)
    for pid, tid in threads:
        assert {("thread_name", pid, tid), ("thread_sort_index", pid, tid)} <= set(given)
    for pid in {event["pid"] for event in events}:
        assert {("process_name", pid, 0), ("process_sort_index", pid, 0)} <= set(given)
    tids = [tid for _, tid in threads]
    assert len(set(tids)) == len(tids)
    assert not set(tids) & {pid for pid, _ in threads}


def _flows(events: list[Event], threads: Threads) -> None:
    """Every flow starts once and ends once, goes forward, keeps its name, and each point is in a slice before it."""
    flows: defaultdict[int, list[Event]] = defaultdict(list)
    begun: defaultdict[tuple[int, int | None], set[int]] = defaultdict(set)
    for event in events:
        thread = event["pid"], event.get("tid")
        if event["ph"] == "X":
            begun[thread].add(ns(event["ts"]))
        elif event["ph"] in "stf":
            flows[event["id"]].append(event)
            assert ns(event["ts"]) in begun[thread], "a viewer binds a point to a slice it has read"
    for points in flows.values():
        points.sort(key=lambda event: ns(event["ts"]))
        assert [point["ph"] for point in points] == ["s", *["t"] * (len(points) - 2), "f"], points
        assert len({(point["cat"], point["name"]) for point in points}) == 1
        assert len({point["pid"] for point in points}) == 1
        for a, b in pairwise(points):
            assert (a["ts"], a["tid"]) != (b["ts"], b["tid"])


def _async(events: list[Event]) -> None:
    open_: defaultdict[tuple[str, int, int], list[tuple[str, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] not in "be":
            continue
        stack = open_[event["cat"], event["id"], event["pid"]]
        if event["ph"] == "b":
            assert not stack or stack[-1][1] <= event["ts"]
            stack.append((event["name"], event["ts"]))
        else:
            name, begin = stack.pop()
            assert name == event["name"]
            assert begin <= event["ts"]
    assert not any(open_.values())


class Seen:
    """A trace by what a reader looks for: threads by name, slices on them, flows by request."""

    def __init__(self, trace: Trace) -> None:
        events = trace["traceEvents"]
        named = [e for e in events if e["ph"] == "M"]
        self.processes = {e["pid"]: e["args"]["name"] for e in named if e["name"] == "process_name"}
        self.threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
        self.slices = [e for e in events if e["ph"] == "X"]
        self.counters: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            if event["ph"] == "C":
                self.counters[event["name"]].append(event)
        self.flows: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
        for event in sorted((e for e in events if e["ph"] in "stf"), key=lambda e: ns(e["ts"])):
            self.flows[event["pid"], event["name"]].append(self._track(event))
        self.async_ = [e for e in events if e["ph"] == "b"]

    def _track(self, event: Event) -> str:
        name: str = self.threads[event["pid"], event["tid"]]
        return name.rsplit(" ", 1)[0] if name.rsplit(" ", 1)[-1].isdigit() else name

    def on(self, track: str) -> list[Event]:
        """Return the slices of a track, of all threads side by side."""
        return [event for event in self.slices if self._track(event) == track]

    @property
    def tracks(self) -> set[str]:
        """Return the names of all tracks that have slices."""
        return {self._track(event) for event in self.slices}
