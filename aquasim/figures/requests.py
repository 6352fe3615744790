"""Every request by when it came: how long it waited, and how long it took."""

from typing import Any

import numpy as np

from aquasim.figures.parts import amount_axis, color, data, time_axis, tips
from aquasim.figures.series import Systems, edges_of, horizon, numbers, stack
from aquasim.figures.theme import Figure
from aquasim.records.metrics import request_times
from aquasim.records.stats import Floats, percentiles

MOST = 4000
"""Points of a figure; beyond, requests are folded into bins."""
BINS = 120
LEAST_SPAN = 0.01
"""Share of the time within which requests count as having come at once."""
METRICS = {
    "ttft": ("Who waits for a first token, and when", "time to first token (s)"),
    "rct": ("How long requests take, by when they came", "completion time (s)"),
}


def strips(systems: Systems, prefix: str = "") -> list[Figure]:
    """Return arrival against TTFT and RCT: a point per request, or quantiles of many."""
    found = [_strip(metric, systems, prefix) for metric in METRICS]
    return [figure for figure in found if figure is not None]


def _strip(metric: str, systems: Systems, prefix: str) -> Figure | None:
    times = {label: _pairs(run, metric) for label, run in systems}
    times = {label: pair for label, pair in times.items() if len(pair[0])}
    if not times:
        return None
    end = horizon(systems)
    count = sum(len(pair[0]) for pair in times.values())
    title, axis = METRICS[metric]
    names = [label for label, _ in systems]
    if all(np.ptp(arrivals) < LEAST_SPAN * end for arrivals, _ in times.values()):
        return _at_once(metric, times, names, prefix)
    if count <= MOST:
        rows = stack([_points(label, *pair) for label, pair in times.items()])
        chart, text = _dots(rows, axis, names), "Each point is one request."
    else:
        edges = edges_of(end, BINS)
        rows = stack([_quantiles(label, *pair, edges) for label, pair in times.items()])
        chart = _lines(rows, axis, names)
        each = max(1, round(count / len(times) / BINS))
        text = (
            f"Each point is the median of about {each:,} requests that came within {edges[1]:,.3g} s; "
            "the thin line above it is their 99th percentile."
        )
    return Figure(
        f"{prefix}{metric}-by-arrival", title, text, chart, {"rows": rows}, tuple(names), window=end
    )


def _at_once(metric: str, times: dict[str, tuple[Floats, Floats]], names: list[str], prefix: str) -> Figure:
    """Return the figure of requests that all came together: by the order in which they came."""
    import altair as alt

    title, axis = METRICS[metric]
    step = -(-sum(len(pair[0]) for pair in times.values()) // MOST)
    parts = []
    for label, (arrivals, values) in times.items():
        order = np.argsort(arrivals, kind="stable")[::step]
        parts.append(
            {**_points(label, arrivals[order], values[order]), "t": [i * step + 1 for i in range(len(order))]}
        )
    rows = stack(parts)
    chart = _dots(rows, axis, names).encode(x=alt.X("t:Q", title="request, in the order in which they came"))
    text = f"All requests came at once. Each point is {'one request' if step == 1 else f'one request in {step:,}'}."
    return Figure(f"{prefix}{metric}-by-arrival", title, text, chart, {"rows": rows}, tuple(names))


def _pairs(run: Any, metric: str) -> tuple[Floats, Floats]:
    found = request_times(run)
    kept = ~np.isnan(found[f"{metric}_s"])
    return found["arrival_s"][kept].astype(np.float64), found[f"{metric}_s"][kept].astype(np.float64)


def _points(label: str, arrivals: Floats, values: Floats) -> dict[str, list[Any]]:
    positive = np.maximum(values, 1e-9)  # a time of nothing has no place on a logarithmic axis
    return {"system": [label] * len(values), "t": numbers(arrivals, 6), "value": numbers(positive, 4)}


def _quantiles(label: str, arrivals: Floats, values: Floats, edges: Floats) -> dict[str, list[Any]]:
    order = np.argsort(arrivals)
    bounds = np.searchsorted(arrivals[order], edges)
    middles, found = (edges[:-1] + edges[1:]) / 2, []
    for at, low, high in zip(middles, bounds[:-1], bounds[1:], strict=True):
        if high > low:
            found.append(
                [float(at), *percentiles(np.maximum(values[order[low:high]], 1e-9), (50, 99)), high - low]
            )
    columns = np.array(found).T
    names = ("t", "value", "top", "count")
    table = {name: numbers(column) for name, column in zip(names, columns, strict=True)}
    return {"system": [label] * len(found), **table}


def _range(rows: dict[str, list[Any]], *fields: str) -> tuple[float, float]:
    values = [value for field in fields for value in rows[field]]
    return min(values), max(values)


def _dots(rows: dict[str, list[Any]], axis: str, names: list[str]) -> Any:
    import altair as alt

    y = amount_axis("value", axis, *_range(rows, "value"))
    told = tips(system="system", t="came at (s)", value=axis)
    chart = alt.Chart(data(), height=230).mark_point(filled=True, size=22, opacity=0.75, clip=True)
    return chart.encode(
        x=time_axis(title="arrival, seconds since the start"), y=y, color=color(names), tooltip=told
    )


def _lines(rows: dict[str, list[Any]], axis: str, names: list[str]) -> Any:
    import altair as alt

    low, high = _range(rows, "value", "top")
    x = time_axis(title="arrival, seconds since the start")
    told = tips(
        system="system", t="around (s)", value="median (s)", top="99th percentile (s)", count="requests"
    )
    base = alt.Chart(data(), height=230).encode(x=x, color=color(names), tooltip=told)
    middle = base.mark_line(strokeWidth=2, clip=True, point={"size": 14}).encode(
        y=amount_axis("value", axis, low, high)
    )
    top = base.mark_line(strokeWidth=1, opacity=0.5, clip=True).encode(y=amount_axis("top", axis, low, high))
    return middle + top
