"""Runs as traces for ui.perfetto.dev and chrome://tracing (the Trace Event Format, JSON).

One process per engine. Threads: `GPU` has a slice per step, and each direction to each tier a slice per
transfer (transfers at the same time on threads of their own). Requests are async tracks with their phases;
counters show KV blocks, batch and queues. Timestamps are microseconds from the start of the run.
"""

import gzip
import json
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from aquasim.records.atomic import new_file
from aquasim.records.phases import phases
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import durations

Event = dict[str, Any]

_GPU = 1
"""Thread of the steps; transfers follow."""
_BATCH = 4096
"""Rows turned into Python numbers at a time."""


class Window(NamedTuple):
    """What of one engine is shown: whatever happens in part between two times, in nanoseconds."""

    start: int
    end: int

    def rows(self, starts: Ints, ends: Ints) -> Ints:
        """Return the indices of the intervals that reach into the window."""
        return np.flatnonzero((starts < self.end) & (ends >= self.start))


def write_trace(
    run: Run,
    path: str | Path,
    limit: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> dict[str, int]:
    """Write a trace; the file appears whole or not at all, gzipped if its name ends in `.gz`.

    Args:
        run: what to show.
        path: file to write.
        limit: most steps to show of each engine; what comes after the last of them is left out.
        start_s: show what ends at this time or later.
        end_s: show what starts before this time. What reaches into the window is shown whole.

    Returns:
        How many steps, transfers and requests were left out; also in the trace, as `otherData`.
    """
    path = Path(path)
    bounds = Window(_ns(start_s, -1), _ns(end_s, 2**63 - 1))
    windows = [_window(run.columns("steps", e), limit, bounds) for e in range(len(run.engines))]
    left_out = {table: _left_out(run, table, windows) for table in ("steps", "transfers", "requests")}
    with new_file(path) as part, _open(part, path.suffix == ".gz") as file:
        events = chain.from_iterable(_engine(run, e, windows[e]) for e in range(len(run.engines)))
        _write(file, events, _notes(run, left_out, windows))
    return left_out


# --- the file ----------------------------------------------------------------------------------------------


def _open(path: Path, zipped: bool) -> TextIO:
    if zipped:
        return gzip.open(path, "wt", compresslevel=5, encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _write(file: TextIO, events: Iterator[Event], notes: dict[str, Any]) -> None:
    """Stream the events, one a line."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    file.write(f'{{"displayTimeUnit":"ms","otherData":{encode(notes)},"traceEvents":[\n')
    separator = ""
    for event in events:
        file.write(separator + encode(event))
        separator = ",\n"
    file.write("\n]}\n")


def _notes(run: Run, left_out: dict[str, int], windows: list[Window]) -> dict[str, Any]:
    notes: dict[str, Any] = {"run": run.name}
    if any(left_out.values()):
        notes["left_out"] = left_out
        notes["window_s"] = {
            engine: [window.start / 1e9, window.end / 1e9]
            for engine, window in zip(run.engines, windows, strict=True)
        }
    return notes


def _ns(seconds: float | None, default: int) -> int:
    return default if seconds is None else round(seconds * 1e9)


def _window(steps: Columns, limit: int | None, bounds: Window) -> Window:
    """Return the window that ends where step `limit` (from 0) within `bounds` would start."""
    shown = _shown("steps", steps, bounds)
    if limit is None or len(shown) <= limit:
        return bounds
    return Window(bounds.start, int(steps["start_ns"][shown[limit]]))


_INTERVALS = {"requests": ("arrival_ns", "finished_ns"), "transfers": ("start_ns", "end_ns")}


def _shown(table: str, columns: Columns, window: Window) -> Ints:
    if table == "steps":
        return window.rows(columns["start_ns"], _ends(columns) - 1)
    start, end = _INTERVALS[table]
    return window.rows(columns[start], columns[end])


def _left_out(run: Run, table: str, windows: list[Window]) -> int:
    columns = (run.columns(table, engine) for engine in range(len(windows)))
    shown = sum(len(_shown(table, *pair)) for pair in zip(columns, windows, strict=True))
    return run.count(table) - shown


def _ends(steps: Columns) -> Ints:
    return steps["start_ns"] + durations(steps["first_ns"], steps["growth_ns"], steps["iterations"])


def _rows(columns: Columns, rows: Ints) -> Iterator[dict[str, int]]:
    """Give rows as dictionaries of plain numbers, a batch at a time."""
    for start in range(0, len(rows), _BATCH):
        picked = [column[rows[start : start + _BATCH]].tolist() for column in columns.values()]
        for values in zip(*picked, strict=True):
            yield dict(zip(columns, values, strict=True))


# --- events ------------------------------------------------------------------------------------------------


def _engine(run: Run, engine: int, window: Window) -> Iterator[Event]:
    pid = engine + 1
    yield _name("process_name", pid, 0, run.engines[engine])
    yield _name("thread_name", pid, _GPU, "GPU")
    steps = run.columns("steps", engine)
    shown = _shown("steps", steps, window)
    yield from _steps(pid, steps, shown)
    yield from _counters(pid, steps, shown, _blocks(run, engine))
    yield from _transfers(run, engine, pid, window)
    yield from _requests(run, engine, pid, window)


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": {"name": name}}


def _slice(pid: int, tid: int, name: str, start: int, end: int, args: dict[str, Any]) -> Event:
    times = {"ts": start / 1000, "dur": (end - start) / 1000}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, **times, "args": args}


def _steps(pid: int, steps: Columns, shown: Ints) -> Iterator[Event]:
    for row in _rows(steps, shown):
        n = row["iterations"]
        end = row["start_ns"] + n * row["first_ns"] + row["growth_ns"] * (n * (n - 1) // 2)
        args = {key: value for key, value in row.items() if key not in ("engine", "start_ns")}
        yield _slice(pid, _GPU, _step_name(row), row["start_ns"], end, args)


def _step_name(row: dict[str, int]) -> str:
    """`prefill 512 + 13 decodes`, `prefill 512` or `decode x12 (8 seqs)`."""
    if row["prefills"]:
        return f"prefill {row['prefill_tokens']}" + (f" + {row['batch']} decodes" if row["batch"] else "")
    return f"decode x{row['iterations']} ({row['batch']} seqs)"


def _blocks(run: Run, engine: int) -> int | None:
    blocks = run.meta.get("blocks")
    return blocks[run.engines[engine]] if isinstance(blocks, dict) else blocks


def _counters(pid: int, steps: Columns, shown: Ints, blocks: int | None) -> Iterator[Event]:
    """Say how things stood: the batch from a step's start, the others at its end; only when they change."""
    last: dict[str, int] = {}
    for row in _rows({**steps, "end_ns": _ends(steps)}, shown):
        used = -row["free_blocks"] if blocks is None else blocks - row["free_blocks"]
        kv = ("KV blocks free", row["free_blocks"]) if blocks is None else ("KV blocks used", used)
        at_end = [kv, ("waiting", row["waiting"]), ("paged", row["paged"])]
        values = [("batch", row["batch"], row["start_ns"])]
        values += [(name, value, row["end_ns"]) for name, value in at_end]
        for name, value, time in values:
            if last.get(name) != value:
                last[name] = value
                yield {"ph": "C", "name": name, "pid": pid, "ts": time / 1000, "args": {"value": value}}


def _transfers(run: Run, engine: int, pid: int, window: Window) -> Iterator[Event]:
    """A thread per direction and tier, and more of them where transfers overlap."""
    transfers = run.columns("transfers", engine)
    shown = _shown("transfers", transfers, window)
    shown = shown[np.lexsort((transfers["end_ns"][shown], transfers["start_ns"][shown]))]
    size = run.meta.get("block_bytes")
    threads: dict[tuple[int, int, int], int] = {}
    lanes: dict[tuple[int, int], _Lanes] = {}
    for row in _rows(transfers, shown):
        way = row["kind"], row["tier"]
        lane = lanes.setdefault(way, _Lanes()).place(row["start_ns"], row["end_ns"])
        direction = f"{run.labels['kind'][way[0]]} {run.labels['tier'][way[1]]}"
        tid = threads.get((*way, lane))
        if tid is None:
            tid = threads[(*way, lane)] = _GPU + 1 + len(threads)
            yield _name("thread_name", pid, tid, f"{direction} {lane + 1}" if lane else direction)
        args = {key: row[key] for key in ("transfer", "blocks", "requests")}
        args |= {} if size is None else {"bytes": row["blocks"] * size}
        yield _slice(pid, tid, f"{direction}: {row['blocks']} blocks", row["start_ns"], row["end_ns"], args)


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
        heappush(self._busy, (end, lane))
        return lane


def _requests(run: Run, engine: int, pid: int, window: Window) -> Iterator[Event]:
    """Nested async events: a request from arrival to end, and within it its phases."""
    requests = run.columns("requests", engine)
    shown = _shown("requests", requests, window)
    happened = phases(run, engine, requests["request"][shown])
    for row in _rows(requests, shown):
        id = row["request"]
        counts = {key: row[key] for key in ("prompt_tokens", "output_tokens", "cached_tokens")}
        named = {key: run.labels[key][row[key]] for key in ("outcome", "reason") if row[key]}
        args = {**counts, **named}
        track = {"cat": "request", "pid": pid, "tid": 0, "id": f"{engine}.{id}"}
        start, end = row["arrival_ns"], row["finished_ns"]
        yield {"ph": "b", "name": f"request {id}", "ts": start / 1000, **track, "args": args}
        for name, begin, stop in happened(row):
            yield {"ph": "b", "name": name, "ts": begin / 1000, **track}
            yield {"ph": "e", "name": name, "ts": stop / 1000, **track}
        yield {"ph": "e", "name": f"request {id}", "ts": end / 1000, **track}
