"""Numbers for figures: step functions over time, bins, quantiles, and columns short enough for a page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aquasim.records.run import Run
from aquasim.records.stats import Floats, Ints
from aquasim.records.tokens import step_ends

NS = 1e9
BINS = 360
"""Points of a line over time: more than a phone has pixels, fewer than a desktop."""

Systems = Sequence[tuple[str, Run]]
"""Runs with what to call them, in the order of their colours."""


class Steps(NamedTuple):
    """A function of time that is `values[i]` from `times[i]` (seconds, rising) until the next one, 0 before."""

    times: Floats
    values: Floats


def horizon(systems: Systems) -> float:
    """Return the second at which the last thing happened in any of the runs."""
    latest = 1
    for _, run in systems:
        for table, column in (("requests", "finished_ns"), ("work", "end_ns"), ("transfers", "end_ns")):
            values = run.columns(table)[column]
            latest = max(latest, int(values.max()) if len(values) else 0)
        steps = run.columns("steps")
        latest = max(latest, int(step_ends(steps).max()) if len(steps["step"]) else 0)
    return latest / NS


def of_changes(times: Ints, changes: Any) -> Steps:
    """Return the running sum of `changes` (at nanoseconds)."""
    order = np.argsort(times, kind="stable")
    return Steps(times[order] / NS, np.cumsum(np.asarray(changes, np.float64)[order]))


def between(starts: Ints, ends: Ints, amounts: Any) -> Steps:
    """Return the sum of `amounts`, each there from its start to its end (nanoseconds)."""
    amounts = np.asarray(amounts, np.float64)
    return of_changes(np.concatenate((starts, ends)), np.concatenate((amounts, -amounts)))


def held(times: Ints, values: Any) -> Steps:
    """Return the function that takes each value at its time and holds it."""
    order = np.argsort(times, kind="stable")
    return Steps(times[order] / NS, np.asarray(values, np.float64)[order])


def total(parts: Sequence[Steps]) -> Steps:
    """Return the sum of step functions."""
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([np.zeros(0), *(part.times for part in parts)])
    changes = np.concatenate([np.zeros(0), *(np.diff(part.values, prepend=0.0) for part in parts)])
    order = np.argsort(times, kind="stable")
    return Steps(times[order], np.cumsum(changes[order]))


def at(steps: Steps, times: Floats) -> Floats:
    """Return the values at some times."""
    place = np.searchsorted(steps.times, times, "right")
    return np.concatenate(([0.0], steps.values))[place]


def means(steps: Steps, edges: Floats) -> Floats:
    """Return the mean over each bin, weighted by time."""
    lasted = np.diff(steps.times, append=max(edges[-1], steps.times[-1] if len(steps.times) else 0.0))
    area = np.concatenate(([0.0], np.cumsum(steps.values * lasted)))
    place = np.searchsorted(steps.times, edges, "right")
    since = edges - np.concatenate(([0.0], steps.times))[place]
    begun = np.maximum(place - 1, 0)
    summed = np.where(place > 0, area[begun] + at(steps, edges) * since, 0.0)
    return np.diff(summed) / np.diff(edges)


def peaks(steps: Steps, edges: Floats) -> Floats:
    """Return the greatest value in each bin."""
    found = at(steps, edges[:-1])
    place = np.searchsorted(edges, steps.times, "right") - 1
    inside = (place >= 0) & (place < len(found))
    np.maximum.at(found, place[inside], steps.values[inside])
    return found


def spread(starts: Ints, ends: Ints, amounts: Any, edges: Floats) -> Floats:
    """Return how much of `amounts`, each spread evenly from its start to its end (nanoseconds), falls in each bin."""
    begin, stop = starts / NS, np.maximum(ends, starts + 1) / NS
    rates = np.asarray(amounts, np.float64) / (stop - begin)
    return np.diff(_ramps(begin, rates, edges) - _ramps(stop, rates, edges))


def _ramps(starts: Floats, rates: Floats, times: Floats) -> Floats:
    """Return, at each time, the sum of rate * (time - start) over what started before."""
    order = np.argsort(starts)
    place = np.searchsorted(starts[order], times)
    rate = np.concatenate(([0.0], np.cumsum(rates[order])))[place]
    offset = np.concatenate(([0.0], np.cumsum(rates[order] * starts[order])))[place]
    ramps: Floats = rate * times - offset
    return ramps


def edges_of(end: float, bins: int = BINS) -> Floats:
    """Return the edges of equal bins from 0 to `end`."""
    return np.linspace(0.0, end, bins + 1)


def thin(times: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Leave out points of a stepped line between equal ones."""
    kept = np.ones(len(values), np.bool_)
    if len(values) > 2:
        kept[1:-1] = values[1:-1] != values[:-2]
    return times[kept], values[kept]


def numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Return floats with so many significant digits; None for what is undefined."""
    found: list[float | None] = []
    for value in np.asarray(values, np.float64).tolist():
        if not np.isfinite(value):
            found.append(None)
        else:
            short = float(f"{value:.{digits}g}")
            found.append(int(short) if short.is_integer() else short)
    return found


def timeline(label: str, times: Any, values: Any) -> dict[str, list[Any]]:
    """Return a line over time as columns: system, t, value."""
    return {"system": [label] * len(times), "t": numbers(times), "value": numbers(values, 4)}


def stepped(label: str, run: Run, edges: Floats, values: Floats) -> dict[str, list[Any]]:
    """Return a stepped line of a value per bin that stops where the run does; points between equal ones left out."""
    until = min(horizon([(label, run)]), float(edges[-1]))
    count = max(1, int(np.searchsorted(edges[:-1], until)))
    times, kept = thin(edges[:count], values[:count])
    return timeline(label, np.append(times, until), np.append(kept, kept[-1]))


def stack(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Return tables of the same columns, one below the other."""
    names = parts[0] if parts else {}
    return {name: [value for part in parts for value in part[name]] for name in names}
