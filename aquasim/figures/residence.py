"""Where the KV cache of preempted requests lies, as far as the tables tell."""

import numpy as np

from aquasim.figures.series import Steps, between, total
from aquasim.records.run import Run
from aquasim.records.stats import Ints


def paged_out(run: Run) -> dict[str, Steps]:
    """Return bytes by tier and time of what requests lost and got back, or never got back.

    What a transfer brings in was in its tier at least since the request was last preempted. What was moved out and
    never came in stays until the request ends: its cores attend to it there.
    """
    parts: dict[str, list[Steps]] = {}
    sizes = run.meta.get("block_bytes")
    for engine, name in enumerate(run.engines):
        size = sizes.get(name) if isinstance(sizes, dict) else sizes
        if size:
            for tier, steps in _engine(run, engine, int(size)).items():
                parts.setdefault(tier, []).append(steps)
    return {tier: total(some) for tier, some in parts.items()}


def _engine(run: Run, engine: int, size: int) -> dict[str, Steps]:
    moves, transfers = run.columns("moves", engine), run.columns("transfers", engine)
    if not len(moves["request"]):
        return {}
    order = np.argsort(transfers["transfer"])
    place = order[np.searchsorted(transfers["transfer"], moves["transfer"], sorter=order)]
    start, end, kind, tier = (transfers[name][place] for name in ("start_ns", "end_ns", "kind", "tier"))
    inward, outward = (kind == run.labels["kind"].index(name) for name in ("in", "out"))
    request = moves["request"]
    back = _last_in(request, end, inward)
    away = outward & (end > back)
    begin = np.where(inward, _before(run, engine, request, start), end)
    until = np.where(inward, end, _ends(run, engine, request, end))
    found = {}
    for code in np.unique(tier).tolist():
        mine = (tier == code) & (inward | away)
        if mine.any():
            found[run.labels["tier"][code]] = between(begin[mine], until[mine], moves["blocks"][mine] * size)
    return found


def _last_in(request: Ints, end: Ints, inward: np.ndarray) -> Ints:
    """Return, per move, when its request's last blocks came in; -1 if none ever did."""
    ids, place = np.unique(request, return_inverse=True)
    latest = np.full(len(ids), -1, np.int64)
    np.maximum.at(latest, place[inward], end[inward])
    return latest[place]


def _before(run: Run, engine: int, request: Ints, start: Ints) -> Ints:
    """Return when each request was last preempted before a time; that time if it never was."""
    lost = run.columns("preemptions", engine)
    if not len(lost["request"]):
        return start
    order = np.lexsort((lost["time_ns"], lost["request"]))
    ids, times = lost["request"][order], lost["time_ns"][order]
    span = int(max(times.max(), start.max())) + 1
    if int(max(ids.max(), request.max())) >= 2**62 // span or min(ids.min(), request.min(), times.min()) < 0:
        return start
    place = np.searchsorted(ids * span + times, request * span + start, "right") - 1
    near = np.maximum(place, 0)
    known = (place >= 0) & (ids[near] == request)
    return np.where(known, times[near], start)


def _ends(run: Run, engine: int, request: Ints, default: Ints) -> Ints:
    """Return when each request ended, at least `default`."""
    rows = run.columns("requests", engine)
    if not len(rows["request"]):
        return default
    order = np.argsort(rows["request"])
    ids = rows["request"][order]
    place = np.minimum(np.searchsorted(ids, request), len(ids) - 1)
    ended = np.where(ids[place] == request, rows["finished_ns"][order][place], default)
    return np.maximum(ended, default)
