"""What each request was doing when: queued, prefill, decode, paged, preempted or waiting."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from aquasim.records.run import Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import step_ends

Phase = tuple[str, int, int]
"""Name, start and end in nanoseconds."""


def phases(run: Run, engine: int, requests: Ints) -> Callable[[dict[str, int]], list[Phase]]:
    """Prepare the phases of some requests of an engine.

    Returns:
        A function from a row of the table of requests to the request's phases, in order and without gaps.
        Between being computed on, a request is `paged` if its KV was moved in that time, `preempted` if its
        memory was taken, else `waiting` (or `queued`, before its first chunk).
    """
    work = _work(run, engine, requests)
    moved = _intervals(_moves(run, engine), requests)
    preemptions = run.columns("preemptions", engine)
    lost = _intervals([(preemptions["request"], preemptions["time_ns"], preemptions["time_ns"])], requests)

    def of(row: dict[str, int]) -> list[Phase]:
        id = row["request"]
        return _phases(row["arrival_ns"], row["finished_ns"], work[id], moved[id], lost[id])

    return of


def _phases(
    arrival: int,
    end: int,
    work: Iterable[tuple[int, int, int]],
    moved: list[tuple[int, int, int]],
    lost: list[tuple[int, int, int]],
) -> list[Phase]:
    """Fill the time between stretches of work; stretches of one kind that touch are one."""
    found: list[Phase] = []
    now = arrival
    for start, stop, kind in sorted(work):
        start, stop = max(start, now), min(stop, end)
        if stop < start:
            continue
        if start > now:
            found.append((_pause(now, start, bool(found), moved, lost), now, start))
        name = ("prefill", "decode")[kind]
        if found and found[-1][0] == name and found[-1][2] == start:
            found[-1] = (name, found[-1][1], stop)
        else:
            found.append((name, start, stop))
        now = stop
    if now < end:
        found.append((_pause(now, end, bool(found), moved, lost), now, end))
    return found


def _pause(
    start: int, end: int, began: bool, moved: list[tuple[int, int, int]], lost: list[tuple[int, int, int]]
) -> str:
    if not began:
        return "queued"
    if any(s < end and e > start for s, e, _ in moved):
        return "paged"
    return "preempted" if any(start <= time <= end for time, _, _ in lost) else "waiting"


def _work(run: Run, engine: int, requests: Ints) -> dict[int, list[tuple[int, int, int]]]:
    """Return (start, end, 0: prefill or 1: decode) of each request's chunks and spans."""
    steps, spans = run.columns("steps", engine), run.columns("spans", engine)
    chunks = run.columns("chunks", engine)
    if not len(steps["step"]):
        return defaultdict(list)
    start = steps["start_ns"]
    end = step_ends(steps)
    chunk = np.searchsorted(steps["step"], chunks["step"])
    first = np.searchsorted(steps["step"], spans["first_step"])
    last = np.searchsorted(steps["step"], spans["last_step"], "right") - 1
    last[spans["last_step"] < 0] = len(start) - 1
    kept = first <= last
    decoded = (spans["request"][kept], start[first[kept]], end[last[kept]])
    return _intervals([(chunks["request"], start[chunk], end[chunk]), decoded], requests)


def _moves(run: Run, engine: int) -> list[tuple[Ints, Ints, Ints]]:
    """Return when which requests' blocks were on the way."""
    moves, transfers = run.columns("moves", engine), run.columns("transfers", engine)
    order = np.argsort(transfers["transfer"])
    place = order[np.searchsorted(transfers["transfer"], moves["transfer"], sorter=order)]
    return [(moves["request"], transfers["start_ns"][place], transfers["end_ns"][place])]


def _intervals(kinds: list[tuple[Ints, Ints, Ints]], requests: Ints) -> dict[int, list[tuple[int, int, int]]]:
    """Return, per request of `requests`, its (start, end, index of the kind)."""
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for kind, (ids, starts, ends) in enumerate(kinds):
        rows = np.flatnonzero(np.isin(ids, requests))
        picked = zip(ids[rows].tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True)
        for id, start, end in picked:
            found[id].append((start, end, kind))
    return found
