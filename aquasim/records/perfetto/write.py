"""Writing a trace: which part of a run is shown, and the file."""

import gzip
import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from aquasim.records.atomic import new_file
from aquasim.records.perfetto.tracks import Event, plain, thread_numbers
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import step_ends


class EmptyWindowError(ValueError):
    """Nothing of the run lies between the times asked for; the text says where it lies."""


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

    Raises:
        EmptyWindowError: nothing lies between `start_s` and `end_s`.
    """
    path = Path(path)
    bounds = _bounds(run, start_s, end_s)
    windows = [_window(run.columns("steps", e), limit, bounds) for e in range(len(run.engines))]
    left_out = {table: _left_out(run, table, windows) for table in ("steps", "transfers", "requests")}
    with new_file(path) as part, _open(part, path.suffix == ".gz") as file:
        _write(file, _events(run, windows), _notes(run, left_out, windows))
    return left_out


def _events(run: Run, windows: list[Window]) -> Iterator[Event]:
    from aquasim.records.perfetto.engine import engine_events
    from aquasim.records.perfetto.links import link_events

    numbers = thread_numbers()
    engines = (engine_events(run, e, window, numbers) for e, window in enumerate(windows))
    return chain(chain.from_iterable(engines), link_events(run, windows, numbers))


# --- the file ----------------------------------------------------------------------------------------------


def _open(path: Path, zipped: bool) -> TextIO:
    if zipped:
        return gzip.open(path, "wt", compresslevel=5, encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _write(file: TextIO, events: Iterator[Event], notes: dict[str, Any]) -> None:
    """Stream the events, one a line."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    file.write(f'{{"displayTimeUnit":"ms","otherData":{encode(notes)},"traceEvents":[\n')
    separator = ""
    for event in events:
        file.write(separator + encode(event))
        separator = ",\n"
    file.write("\n]}\n")


def _notes(run: Run, left_out: dict[str, int], windows: list[Window]) -> dict[str, Any]:
    notes: dict[str, Any] = {"run": plain(run.name)}
    if any(left_out.values()):
        notes["left_out"] = left_out
        first, last = span(run)
        notes["window_s"] = [
            [plain(engine), max(window.start, first) / 1e9, min(window.end, last) / 1e9]
            for engine, window in zip(run.engines, windows, strict=True)
        ]
    return notes


# --- the part that is shown --------------------------------------------------------------------------------


FIRST, LAST = -1, 2**63 - 1
"""Nanoseconds before and after anything in a run."""


def _bounds(run: Run, start_s: float | None, end_s: float | None) -> Window:
    """Return the window asked for, which must have something of the run in it; all there is if nothing was."""
    if start_s is None and end_s is None:
        return Window(FIRST, LAST)
    window = Window(_ns(start_s, FIRST), _ns(end_s, LAST))
    tables = [(table, run.columns(table)) for table in TIMED]
    if not any(len(shown(table, columns, window)) for table, columns in tables):
        first, last = span(run)
        raise EmptyWindowError(f"nothing lies there; the run goes from {first / 1e9:g} s to {last / 1e9:g} s")
    return window


def span(run: Run) -> tuple[int, int]:
    """Return when the first thing of a run began and the last one ended, in nanoseconds."""
    times = [interval(table, run.columns(table)) for table in TIMED]
    starts = [int(start.min()) for start, _ in times if len(start)]
    return min(starts, default=0), max((int(end.max()) for _, end in times if len(end)), default=0)


def _ns(seconds: float | None, default: int) -> int:
    if seconds is None:
        return default
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds:g}: a finite number of seconds is needed")
    return round(min(max(seconds * 1e9, FIRST), 2.0**62))


def _window(steps: Columns, limit: int | None, bounds: Window) -> Window:
    """Return the window that ends where step `limit` (from 0) within `bounds` would start."""
    picked = shown("steps", steps, bounds)
    if limit is None or len(picked) <= limit:
        return bounds
    return Window(bounds.start, int(steps["start_ns"][picked[limit]]))


TIMED = ("steps", "requests", "transfers", "fetches", "work", "leases")
"""Tables of what happens at a time."""
_INTERVALS = {"requests": ("arrival_ns", "finished_ns"), "leases": ("time_ns", "time_ns")}
"""Where the times of a table stand that are not `start_ns` and `end_ns`."""


def interval(table: str, columns: Columns) -> tuple[Ints, Ints]:
    """Return when each row of a table began and ended, in nanoseconds."""
    if table == "steps":
        return columns["start_ns"], step_ends(columns)
    start, end = _INTERVALS.get(table, ("start_ns", "end_ns"))
    return columns[start], columns[end]


def shown(table: str, columns: Columns, window: Window) -> Ints:
    """Return the rows of a table that reach into a window; a step that ends as it starts does not."""
    starts, ends = interval(table, columns)
    return window.rows(starts, ends - 1 if table == "steps" else ends)


def _left_out(run: Run, table: str, windows: list[Window]) -> int:
    columns = (run.columns(table, engine) for engine in range(len(windows)))
    return run.count(table) - sum(len(shown(table, *pair)) for pair in zip(columns, windows, strict=True))
