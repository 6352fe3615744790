"""Gantt charts: what each engine did, and what each request went through, in time slices."""

from typing import Any

import numpy as np

from aquasim.figures.bars import ALIVE, Bars, lane_bars, merge, request_bars
from aquasim.figures.load import waiting
from aquasim.figures.parts import data, kind_scale, time_axis, tips
from aquasim.figures.series import NS, Systems, horizon
from aquasim.figures.theme import KINDS, Figure
from aquasim.records.run import Run

BUDGET = 24_000
"""Bars on a page; beyond, lanes are merged and requests shown in a window."""
NAMES = list(KINDS)


def lanes_figure(systems: Systems, prefix: str = "", budget: int = BUDGET // 2) -> list[Figure]:
    """Return what each engine of each system did: iterations, host cores, copies by direction and tier."""
    end = horizon(systems)
    each = max(200, budget // max(1, len(systems)))
    lanes: list[str] = []
    parts, joined = [], 0.0
    for label, run in systems:
        names, bars = lane_bars(run)
        bars, gap = _fit(bars, each, end)
        joined = max(joined, gap)
        parts.append(bars._replace(row=bars.row + len(lanes)))
        lanes += [f"{label} · {name}" for name in names]
    bars = Bars.join(parts)
    if not len(bars.row):
        return []
    rows = {**_columns(bars), "lane": [lanes[row] for row in bars.row.tolist()]}
    text = "Each bar is a run of iterations, or a copy of pages."
    if joined:
        text += f" Bars of one lane less than {joined:,.2g} s apart are drawn as one, which says how many."
    used = sorted({*bars.kind.tolist()})
    chart = _lanes_chart(len(lanes), used)
    labels: dict[str, list[Any]] = {"lane": lanes, "row": list(range(len(lanes)))}
    tables, kinds = {"rows": rows, "labels": labels}, tuple(NAMES[kind] for kind in used)
    return [Figure(f"{prefix}engines", "What each engine did when", text, chart, tables, kinds, True, end)]


def _fit(bars: Bars, budget: int, end: float) -> tuple[Bars, float]:
    """Join bars closer than a gap that grows until few enough are left; returns the gap in seconds, 0 if none."""
    if len(bars.row) <= budget:
        return bars, 0.0
    gap = end / 20_000
    while True:
        joined = merge(bars, round(gap * NS))
        if len(joined.row) <= budget or gap > end:
            return joined, gap
        gap *= 2


def request_figures(systems: Systems, prefix: str = "", budget: int = BUDGET) -> list[Figure]:
    """Return a figure per system: requests by arrival, and what each was going through."""
    end = horizon(systems)
    bars = [request_bars(run) for _, run in systems]
    shares = _shares([len(each.row) for each in bars], budget)
    return [
        _requests(label, run, mine, end, max(400, share), prefix)
        for (label, run), mine, share in zip(systems, bars, shares, strict=True)
        if len(mine.row)
    ]


def _shares(wanted: list[int], budget: int) -> list[int]:
    """Divide a budget: who wants less than an even share leaves the rest to the others."""
    given = [0] * len(wanted)
    left = budget
    for done, place in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[place] = min(wanted[place], left // (len(wanted) - done))
        left -= given[place]
    return given


def _requests(label: str, run: Run, bars: Bars, end: float, budget: int, prefix: str) -> Figure:
    text = "A row is a request, in order of arrival; grey is waiting or paged out."
    shown = bars
    if len(bars.row) > budget:
        shown, start, stop = _window(bars, run, budget)
        text += (
            f" Shown are {len(shown.row):,} of {len(bars.row):,} bars: the {stop - start:,.3g} s around the longest "
            f"queue, from {start:,.6g} to {stop:,.6g} s. aquasim trace writes all of them for ui.perfetto.dev."
        )
    kinds = sorted({*shown.kind.tolist()})
    rows = _columns(shown)
    chart = _requests_chart(kinds)
    title = f"Every request's time slices under {label}"
    names = tuple(NAMES[kind] for kind in kinds)
    return Figure(f"{prefix}requests-{label}", title, text, chart, {"rows": rows}, names, True, end)


def _window(bars: Bars, run: Run, budget: int) -> tuple[Bars, float, float]:
    """Return the bars of the window around the longest queue that holds at most `budget` of them."""
    queue = waiting(run)
    peak = int(queue.times[np.argmax(queue.values)] * NS) if len(queue.times) else int(np.median(bars.start))
    low, high = 0, int(bars.end.max()) + 1
    while high - low > 1000:  # the half width, by bisection
        middle = (low + high) // 2
        count = int(((bars.start < peak + middle) & (bars.end > peak - middle)).sum())
        low, high = (middle, high) if count <= budget else (low, middle)
    first, last = max(0, peak - low), peak + low
    kept = bars.within(first, max(last, first + 1))
    if len(kept.row) > budget:  # so many at one instant that none is left out by time
        rows = np.unique(kept.row)
        kept = kept.take(np.isin(kept.row, rows[:: -(-len(kept.row) // budget)]))
    return kept, first / NS, last / NS


def _columns(bars: Bars) -> dict[str, list[Any]]:
    return {
        "row": bars.row.tolist(),
        "start": np.round(bars.start / NS, 3).tolist(),
        "long": np.round((bars.end - bars.start) / NS, 4).tolist(),
        "kind": [NAMES[kind] for kind in bars.kind.tolist()],
        "amount": bars.amount.tolist(),
    }


def _bars_chart(height: Any, kinds: list[int]) -> Any:
    import altair as alt

    shown = "datum.end >= begin && datum.start <= until"
    base = alt.Chart(data(), height=height).transform_calculate(end="datum.start + datum.long")
    base = base.transform_filter(shown)
    axis, scale = time_axis("start"), kind_scale([NAMES[kind] for kind in kinds])
    return base.encode(x=axis, x2="end:Q", color=alt.Color("kind:N", title=None, scale=scale))


def _requests_chart(kinds: list[int]) -> Any:
    """Rows fill the height: zoomed in, only requests alive within the window have one."""
    import altair as alt

    told = tips(row="request", kind="kind", start="from (s)", end="to (s)", amount="tokens or blocks")
    y = alt.Y(
        "row:Q", title="request, by arrival", scale=alt.Scale(zero=False, reverse=True, nice=False, padding=4)
    )
    base = _bars_chart(240, kinds)
    size = alt.value({"expr": "max(1.2, min(14, 200 / max(1, domain('y')[1] - domain('y')[0])))"})
    alive = base.transform_filter(f"datum.kind == {NAMES[ALIVE]!r}").mark_rule(clip=True, opacity=0.35)
    work = base.transform_filter(f"datum.kind != {NAMES[ALIVE]!r}").mark_rule(clip=True)
    return alive.encode(y=y, size=size, tooltip=told) + work.encode(y=y, size=size, tooltip=told)


def _lanes_chart(lanes: int, kinds: list[int]) -> Any:
    """Lanes with their names above the bars, so that a phone needs no margin for them."""
    import altair as alt

    scale = alt.Scale(domain=list(range(lanes)), paddingInner=0.5, paddingOuter=0.35)
    y = alt.Y("row:O", title=None, axis=None, scale=scale)
    told = tips(lane="lane", start="from (s)", end="to (s)", amount="tokens, sequences, blocks or bars")
    bars = _bars_chart(lanes * 32, kinds).mark_bar(clip=True, strokeWidth=0.8)
    edge = alt.Stroke("kind:N", scale=kind_scale([NAMES[kind] for kind in kinds]), legend=None)
    bars = bars.encode(y=y, tooltip=told, stroke=edge)
    names = alt.Chart(data("labels")).mark_text(align="left", baseline="bottom", dy=-10, fontSize=11)
    return bars + names.encode(y=y, x=alt.value(2), text="lane:N")
