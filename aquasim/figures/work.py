"""Engines without requests: items per second and time per unit over time."""

from typing import Any

import numpy as np

from aquasim.figures.parts import amount_axis, color, data, time_axis, tips
from aquasim.figures.series import NS, Systems, edges_of, horizon, spread, stack, stepped, timeline
from aquasim.figures.theme import Figure
from aquasim.records.run import Run
from aquasim.records.stats import Floats

BINS = 240


def work_figures(systems: Systems, unit: str = "item", prefix: str = "") -> list[Figure]:
    """Return how fast work was done, and how long each unit of it took."""
    end = horizon(systems)
    edges = edges_of(end, BINS)
    done = [(label, run.columns("work")) for label, run in systems]
    done = [(label, rows) for label, rows in done if len(rows["items"])]
    if not done:
        return []
    names = [label for label, _ in systems]
    width = f"{edges[1]:,.3g} s"
    speed = stack([_speed(label, run, edges) for label, run in systems if run.count("work")])
    took = stack([_took(label, rows, edges) for label, rows in done])
    axis = f"{unit}s per second"
    return [
        Figure(
            f"{prefix}speed", "How fast work gets done", f"Each point is the mean over {width}.",
            _chart(axis, names, [value for value in speed["value"] if value], log=False), {"rows": speed},
            tuple(names), window=end,
        ),
        Figure(
            f"{prefix}unit-time", f"How long one {unit} takes",
            f"Each point is the median of those that ended within {width}.",
            _chart("seconds", names, [value for value in took["value"] if value], log=True), {"rows": took},
            tuple(names), window=end,
        ),
    ]  # fmt: skip


def _speed(label: str, run: Run, edges: Floats) -> dict[str, list[Any]]:
    rows = run.columns("work")
    made = spread(rows["start_ns"], rows["end_ns"], rows["items"], edges) / np.diff(edges)
    return stepped(label, run, edges, np.maximum(made, 0).astype(np.float64))


def _took(label: str, rows: dict[str, Any], edges: Floats) -> dict[str, list[Any]]:
    order = np.argsort(rows["end_ns"], kind="stable")
    lasted = ((rows["end_ns"] - rows["start_ns"]) / NS)[order]
    bounds = np.searchsorted(rows["end_ns"][order] / NS, edges)
    pairs = zip(edges[:-1], bounds[:-1], bounds[1:], strict=True)
    found = [(at, float(np.median(lasted[low:high]))) for at, low, high in pairs if high > low]
    times, values = (np.array(column) for column in zip(*found, strict=True)) if found else (np.zeros(0),) * 2
    return timeline(label, times, values)


def _chart(axis: str, names: list[str], values: list[float], log: bool) -> Any:
    import altair as alt

    y = (
        amount_axis("value", axis, min(values), max(values))
        if log and values
        else alt.Y("value:Q", title=axis)
    )
    line = alt.Chart(data(), height=180).mark_line(strokeWidth=1.6, interpolate="step-after", clip=True)
    told = tips(system="system", t="from (s)", value=axis)
    return line.encode(x=time_axis(), y=y, color=color(names), tooltip=told)
