"""How long it took, as cumulative distributions: a line per system, percentiles marked."""

from typing import Any

import numpy as np

from aquasim.figures.parts import color, data, is_wide, tips
from aquasim.figures.series import NS, Systems, numbers, stack
from aquasim.figures.theme import Figure
from aquasim.records.metrics import request_times
from aquasim.records.run import Run
from aquasim.records.stats import Floats, Progressions, percentiles
from aquasim.records.tables import Outcome
from aquasim.records.tokens import account

MARKED = (50, 90, 99)
GRID = np.unique(np.concatenate((np.linspace(0, 99, 199), np.linspace(99, 100, 21))))
"""Percents at which a large sample is read."""

TITLES = {
    "ttft": ("How long until the first token", "time to first token (s)"),
    "itl": ("How long between two tokens of one request", "inter-token latency (s)"),
    "rct": ("How long until a request is complete", "request completion time (s)"),
}


def distributions(systems: Systems, prefix: str = "") -> list[Figure]:
    """Return the distributions of TTFT, ITL and RCT that have any samples."""
    found = [_figure(metric, systems, prefix) for metric in TITLES]
    return [figure for figure in found if figure is not None]


def _figure(metric: str, systems: Systems, prefix: str) -> Figure | None:
    lines, marks, folded = [], [], 0
    for label, run in systems:
        line, mark, size = _gaps(run) if metric == "itl" else _times(run, metric)
        if size:
            lines.append(_table(label, line))
            marks.append({**_table(label, mark), "percentile": [f"p{percent}" for percent in MARKED]})
            folded = max(folded, size if size > len(line[0]) else 0)
    if not lines:
        return None
    title, axis = TITLES[metric]
    rows = stack(lines)
    values = [value for value in rows["value"] if value]
    chart = _chart(axis, bool(values) and is_wide(min(values), max(values)), [s for s, _ in systems], metric)
    text = (
        "Read up from a time: the share that took no longer. The dots are the 50th, 90th and 99th percentile. "
        + _folded(metric, folded)
    ).strip()
    return Figure(
        f"{prefix}{metric}-distribution", title, text, chart, {"rows": rows, "marks": stack(marks)},
        tuple(s for s, _ in systems),
    )  # fmt: skip


def _folded(metric: str, size: int) -> str:
    what = "tokens" if metric == "itl" else "requests"
    return f"Each line is read at {len(GRID)} percentiles of up to {size:,} {what}." if size else ""


def _table(label: str, points: tuple[Any, Any]) -> dict[str, list[Any]]:
    values, shares = points
    return {"system": [label] * len(shares), "value": numbers(values), "share": numbers(shares)}


def _times(run: Run, metric: str) -> tuple[tuple[Any, Any], tuple[Any, Any], int]:
    """Return the line, the marks and the size of the sample of finished requests."""
    finished = run.columns("requests")["outcome"] == Outcome.FINISHED
    values = request_times(run)[f"{metric}_s"][finished]
    values = values[~np.isnan(values)]
    if not len(values):
        return ([], []), ([], []), 0
    if len(values) <= len(GRID):
        line = np.sort(values), (np.arange(len(values)) + 1) / len(values)
    else:
        line = np.array(percentiles(values, GRID.tolist())), GRID / 100
    return line, (percentiles(values, MARKED), np.array(MARKED) / 100), len(values)


def _gaps(run: Run) -> tuple[tuple[Any, Any], tuple[Any, Any], int]:
    """Return the same of the times between tokens, every token counted."""
    tables = ("requests", "steps", "spans", "chunks")
    parts = [account(*(run.columns(t, e) for t in tables)).gaps for e in range(len(run.engines))]
    gaps = Progressions.join(parts)
    size = gaps.total()
    if not size:
        return ([], []), ([], []), 0
    line: Floats = np.array(gaps.percentiles(GRID.tolist())) / NS
    marks = np.array(gaps.percentiles(MARKED)) / NS
    return (line, GRID / 100), (marks, np.array(MARKED) / 100), size


def _chart(axis: str, wide: bool, names: list[str], metric: str) -> Any:
    import altair as alt

    scale = alt.Scale(type="log", nice=False) if wide else alt.Scale(nice=False, zero=False)
    x = alt.X("value:Q", title=axis + (", log scale" if wide else ""), scale=scale)
    what = "tokens" if metric == "itl" else "requests"
    y = alt.Y("share:Q", title=f"share of {what}", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    hue = color(names)
    line = alt.Chart(data(), height=260).mark_line(strokeWidth=2, interpolate="step-after")
    line = line.encode(
        x=x, y=y, color=hue, order="share:Q", tooltip=tips(system="system", value="s", share="share")
    )
    dots = alt.Chart(data("marks")).mark_point(filled=True, size=55, opacity=1)
    told = tips(system="system", percentile="percentile", value="s")
    return line + dots.encode(x=x, y=y, color=hue, tooltip=told)
