"""How evenly requests are served over time: Jain's index and the largest difference, window by window."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from aquasim.figures.bars import ALIVE, CODES, request_bars
from aquasim.figures.parts import color, data, time_axis, tips
from aquasim.figures.series import NS, Systems, edges_of, horizon, stack, timeline
from aquasim.figures.theme import Figure
from aquasim.records.run import Run
from aquasim.records.stats import Floats, jain

WINDOWS = 72
LEAST = 0.05
"""Share of a window, or of its own life if that is shorter, that a request must be alive in to count there."""

WORDS = (
    "In each window of {bin}, the tokens generated per second alive, of every request there, waiting or not. "
)


class _Service(NamedTuple):
    times: Floats
    jain: Floats
    gap: Floats


def fairness_figures(systems: Systems, prefix: str = "") -> list[Figure]:
    """Return Jain's index, and the largest difference of tokens generated, over time."""
    end = horizon(systems)
    edges = edges_of(end, WINDOWS)
    served = {label: _service(run, edges) for label, run in systems}
    if not any(len(s.times) for s in served.values()):
        return []
    gaps = {label: (s.times, s.gap) for label, s in served.items()}
    words = WORDS.format(bin=f"{edges[1]:,.3g} s")
    figures = [
        _figure(
            f"{prefix}fairness", "How evenly requests are served", "Jain's index",
            words + "Jain's index of them is 1 where all get the same and 1/n where one of n gets everything.",
            {label: (s.times, s.jain) for label, s in served.items()}, end, [0.0, 1.0],
        ),
        _figure(
            f"{prefix}service-gap", "How far the best served is ahead of the worst", "tokens",
            words.replace("generated per second alive", "generated") + "Shown is the greatest less the least, among "
            "those that were there for the whole window: 0 would be perfect turns.",
            gaps, end, None,
        ),
    ]  # fmt: skip
    return figures if any(np.isfinite(values).any() for _, values in gaps.values()) else figures[:1]


def _service(run: Run, edges: Floats) -> _Service:
    """Fold the stays of all requests into windows, one window at a time: memory stays that of the table."""
    bars = request_bars(run)
    alive = bars.take(bars.kind == ALIVE)
    decoded = bars.take((bars.kind == CODES["decode"]) | (bars.kind == CODES["decode on the host"]))
    empty = np.zeros(0)
    if len(alive.row) < 2:
        return _Service(empty, empty, empty)
    begin, stop = np.zeros(int(alive.row.max()) + 1), np.zeros(int(alive.row.max()) + 1)
    begin[alive.row], stop[alive.row] = alive.start / NS, alive.end / NS
    start, end = decoded.start / NS, np.maximum(decoded.end, decoded.start + 1) / NS
    rate = decoded.amount / (end - start)
    found = []
    for low, high in pairwise(edges.tolist()):
        mine = (start < high) & (end > low)
        lasted = np.minimum(end[mine], high) - np.maximum(start[mine], low)
        tokens: Floats = np.bincount(decoded.row[mine], rate[mine] * lasted, len(begin)).astype(np.float64)
        there = np.minimum(stop, high) - np.maximum(begin, low)
        index, gap = _judge(tokens, there, high - low, stop - begin)
        if index is not None:
            found.append((low, index, gap))
    return (
        _Service(*(np.array(column) for column in zip(*found, strict=True)))
        if found
        else _Service(*[empty] * 3)
    )


def _judge(tokens: Floats, alive: Floats, width: float, life: Floats) -> tuple[float | None, float]:
    """Return Jain's index and the largest difference; no index where fewer than two were there, or none got any."""
    there = alive > LEAST * np.minimum(width, life)
    rates = tokens[there] / alive[there]
    whole = tokens[alive >= width * (1 - 1e-9)]
    gap = float(np.ptp(whole)) if len(whole) > 1 else float("nan")
    return (jain(rates), gap) if len(rates) > 1 and rates.any() else (None, gap)


def _figure(
    name: str,
    title: str,
    axis: str,
    text: str,
    lines: dict[str, tuple[Floats, Floats]],
    end: float,
    domain: list[float] | None,
) -> Figure:
    import altair as alt

    parts = [timeline(label, times, values) for label, (times, values) in lines.items()]
    scale = alt.Scale(domain=domain) if domain else alt.Scale()
    line = alt.Chart(data(), height=170).mark_line(strokeWidth=1.6, interpolate="step-after", clip=True)
    told: list[Any] = tips(system="system", t="from (s)", value=axis)
    y = alt.Y("value:Q", title=axis, scale=scale)
    chart = line.encode(x=time_axis(), y=y, color=color(list(lines)), tooltip=told)
    return Figure(name, title, text, chart, {"rows": stack(parts)}, tuple(lines), window=end)
