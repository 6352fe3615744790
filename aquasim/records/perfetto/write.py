"""Writing a trace: which part of a run is shown, and the file."""

import gzip
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from aquasim.records.atomic import new_file
from aquasim.records.perfetto.tracks import Event, plain, thread_numbers
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import durations


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
        notes["window_s"] = [
            [plain(engine), window.start / 1e9, window.end / 1e9]
            for engine, window in zip(run.engines, windows, strict=True)
        ]
    return notes


# --- the part that is shown --------------------------------------------------------------------------------


def _ns(seconds: float | None, default: int) -> int:
    return default if seconds is None else round(seconds * 1e9)


def _window(steps: Columns, limit: int | None, bounds: Window) -> Window:
    """Return the window that ends where step `limit` (from 0) within `bounds` would start."""
    picked = shown("steps", steps, bounds)
    if limit is None or len(picked) <= limit:
        return bounds
    return Window(bounds.start, int(steps["start_ns"][picked[limit]]))


_INTERVALS = {"requests": ("arrival_ns", "finished_ns")}
"""Where the times of a table stand that are not `start_ns` and `end_ns`."""


def shown(table: str, columns: Columns, window: Window) -> Ints:
    """Return the rows of a table that reach into a window."""
    if table == "steps":
        return window.rows(columns["start_ns"], step_ends(columns) - 1)
    start, end = _INTERVALS.get(table, ("start_ns", "end_ns"))
    return window.rows(columns[start], columns[end])


def _left_out(run: Run, table: str, windows: list[Window]) -> int:
    columns = (run.columns(table, engine) for engine in range(len(windows)))
    return run.count(table) - sum(len(shown(table, *pair)) for pair in zip(columns, windows, strict=True))


def step_ends(steps: Columns) -> Ints:
    """Return when each row of the table of steps ended, in nanoseconds."""
    return steps["start_ns"] + durations(steps["first_ns"], steps["growth_ns"], steps["iterations"])
