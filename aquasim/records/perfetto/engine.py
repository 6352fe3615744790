"""One engine of a trace: its iterations, what its requests went through, other work, and its counters."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from aquasim.records.perfetto.counters import counters
from aquasim.records.perfetto.flows import Flows, Points
from aquasim.records.perfetto.kinds import MARK, Kind, Part, kinds
from aquasim.records.perfetto.tracks import Event, Track, plain, process, rows, us
from aquasim.records.perfetto.write import Window, shown
from aquasim.records.phases import phases
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Ints

AT_ONCE = 1 << 12
"""Requests whose phases are in memory at a time."""
FETCHES, WORK, LEASES = 90, 91, 92
"""Places in the order of threads, after those of `kinds`."""


def engine_events(run: Run, engine: int, window: Window, numbers: Iterator[int]) -> Iterator[Event]:
    """Give everything of one engine; `numbers` are for its threads."""
    pid = engine + 1
    yield from process(pid, run.engines[engine])
    requests = run.columns("requests", engine)
    alive = shown("requests", requests, window)
    first = 1 + sum(len(run.columns("requests", e)["request"]) for e in range(engine))
    part = Part(run, engine, window, Flows(requests["request"][alive], first))
    yield from _steps(part, Track(pid, "GPU iterations", 0, numbers))
    found = list(kinds(part))
    for kind, points in zip(found, part.flows.close(), strict=True):
        yield from _slices(kind, Track(pid, kind.name, kind.order, numbers), part.flows, points)
    for kind in (*_fetches(part), _work(part), _leases(part)):
        yield from _slices(kind, Track(pid, kind.name, kind.order, numbers), part.flows, iter(()))
    yield from counters(part, pid)
    yield from _requests(part, pid, requests, alive)


def _steps(part: Part, track: Track) -> Iterator[Event]:
    steps = part.table("steps")
    for row in rows(steps, shown("steps", steps, part.window)):
        n, start = row["iterations"], row["start_ns"]
        end = start + n * row["first_ns"] + row["growth_ns"] * (n * (n - 1) // 2)
        about = {key: value for key, value in row.items() if key not in ("engine", "start_ns")}
        yield from track.put(_step_name(row), start, end, about)


def _step_name(row: dict[str, int]) -> str:
    """`prefill 512 + 13 decodes`, `prefill 512` or `decode x12 (8 seqs)`."""
    many = "s" * (row["batch"] != 1)
    if row["prefills"]:
        return f"prefill {row['prefill_tokens']}" + (
            f" + {row['batch']} decode{many}" if row["batch"] else ""
        )
    return f"decode x{row['iterations']} ({row['batch']} seq{many})"


def _slices(kind: Kind, track: Track, flows: Flows, points: Points) -> Iterator[Event]:
    """Give slices, each followed by the points of flows that lie in it."""
    point = next(points, None)
    for number, row in enumerate(rows(kind.columns, np.arange(len(kind.columns["start_ns"])))):
        name, about = kind.words(row)
        event: Event = {}
        for event in track.put(name, row["start_ns"], row["end_ns"], about):
            yield event
        while point is not None and point[0] == number:
            yield flows.event(point[1], point[2], track.pid, event["tid"], row["start_ns"])
            point = next(points, None)


# --- what is no request's ----------------------------------------------------------------------------------


def _picked(part: Part, table: str, columns: Columns) -> Columns:
    """Return the rows that reach into the window, in order of start."""
    picked = shown(table, columns, part.window)
    picked = picked[np.argsort(columns["start_ns"][picked], kind="stable")]
    return {name: column[picked] for name, column in columns.items()}


def _fetches(part: Part) -> Iterator[Kind]:
    table = part.table("fetches")
    for code, source in enumerate(part.run.labels["source"]):
        mine = {name: column[table["source"] == code] for name, column in table.items()}

        def words(row: dict[str, int], source: str = source) -> tuple[str, dict[str, Any]]:
            return f"fetch {row['object']} from {source}", {"bytes": row["bytes"]}

        yield Kind(f"fetch from {source}", FETCHES, _picked(part, "fetches", mine), words)


def _work(part: Part) -> Kind:
    def words(row: dict[str, int]) -> tuple[str, dict[str, Any]]:
        about = {key: row[key] for key in ("items", "peer_bytes", "host_bytes")}
        return f"{row['items']} item{'s' * (row['items'] != 1)}", about

    return Kind("work", WORK, _picked(part, "work", part.table("work")), words)


def _leases(part: Part) -> Kind:
    """Return changes of memory lent as slices of a moment."""
    table = part.table("leases")
    names = part.run.labels["event"]
    times = {"start_ns": table["time_ns"], "end_ns": table["time_ns"] + MARK}

    def words(row: dict[str, int]) -> tuple[str, dict[str, Any]]:
        about = {key: f"GPU {row[key]}" for key in ("donor", "consumer") if row[key] >= 0}
        return f"{names[row['event']]} {row['bytes'] / 2**30:.3g} GiB", {**about, "bytes": row["bytes"]}

    return Kind("leases", LEASES, _picked(part, "leases", {**table, **times}), words)


# --- requests ----------------------------------------------------------------------------------------------


def _requests(part: Part, pid: int, requests: Columns, alive: Ints) -> Iterator[Event]:
    """Give nested async events: a request from arrival to end, and within it its phases."""
    for start in range(0, len(alive), AT_ONCE):
        batch = alive[start : start + AT_ONCE]
        happened = phases(part.run, part.engine, requests["request"][batch])
        for row in rows(requests, batch):
            yield from _request(part, pid, row, happened(row))


def _request(
    part: Part, pid: int, row: dict[str, int], happened: list[tuple[str, int, int]]
) -> Iterator[Event]:
    labels = part.run.labels
    about: dict[str, Any] = {key: row[key] for key in ("prompt_tokens", "output_tokens", "cached_tokens")}
    about |= {key: plain(labels[key][row[key]]) for key in ("outcome", "reason") if row[key]}
    track = {"cat": "request", "pid": pid, "tid": 0, "id": f"{part.engine}.{row['request']}"}
    name = f"request {row['request']}"
    yield {"ph": "b", "name": name, "ts": us(row["arrival_ns"]), **track, "args": about}
    for phase, begin, stop in happened:
        yield {"ph": "b", "name": phase, "ts": us(begin), **track}
        yield {"ph": "e", "name": phase, "ts": us(stop), **track}
    yield {"ph": "e", "name": name, "ts": us(row["finished_ns"]), **track}
