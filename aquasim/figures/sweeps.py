"""Figures of a sweep: what each key does, two keys at once, and one objective against another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aquasim.figures.parts import color, data, is_wide
from aquasim.figures.series import numbers
from aquasim.figures.text import short, shown
from aquasim.figures.theme import Figure

MOST = 3000
"""Dots in a figure; the front's are among them."""
CELLS = 900
"""Cells of a heat map that can still be told apart."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What a sweep found: a row per candidate with its system, its keys' values, and means with intervals.

    Of a metric `m`, a row has `m`, and `m.low` and `m.high`, None where undefined; and `front`, `best`, `met`.
    """

    keys: Sequence[str]
    systems: Sequence[str]
    metrics: Sequence[str]
    rows: Sequence[Row]
    confidence: float = 0.95

    def values(self, key: str) -> list[Any]:
        """Return the values of a key that were tried, in order: numbers by size, others as they came."""
        values = list(dict.fromkeys(row[key] for row in self.rows))
        return sorted(values) if all(isinstance(value, float) for value in values) else values

    @property
    def axes(self) -> list[str]:
        """Return the keys with several values."""
        return [key for key in self.keys if len(self.values(key)) > 1]

    def pivot(self) -> Row | None:
        """Return the candidate that slices go through: the best; else the middle one of those that ran."""
        metric = self.metrics[0] if self.metrics else None
        good = [row for row in self.rows if metric is not None and row[metric] is not None]
        best = [row for row in good if row["best"]]
        return best[0] if best else good[len(good) // 2] if good else None

    def through(self, pivot: Row, free: Sequence[str]) -> list[Row]:
        """Return the candidates of every system that differ from one in `free` keys only."""
        held = [key for key in self.keys if key not in free]
        return [row for row in self.rows if all(row[key] == pivot[key] for key in held)]

    def held(self, pivot: Row, free: Sequence[str]) -> str:
        """Say which keys are held at which values."""
        parts = [f"{shown(key)} = {text(pivot[key])}" for key in self.axes if key not in free]
        return f" Held, as in the best point: {', '.join(parts)}." if parts else ""


def text(value: Any) -> str:
    """Write a value of a key, or a figure, for a reader."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return "-" if value is None else short(shown(str(value)), 40)


# --- one key -----------------------------------------------------------------------------------------------


def response_figures(found: Found, metrics: Sequence[str]) -> list[Figure]:
    """Return, per key and metric, how the metric answers to the key, of every system."""
    pivot = found.pivot()
    if pivot is None:
        return []
    return [_response(found, key, metric, pivot) for key in found.axes for metric in metrics]


def _response(found: Found, key: str, metric: str, pivot: Row) -> Figure:
    rows = found.through(pivot, [key])
    sliced = len({row[key] for row in rows}) > 2 or len(rows) == len(found.rows)
    rows = [row for row in (rows if sliced else thinned(found.rows)) if row[metric] is not None]
    numeric = all(isinstance(row[key], float) for row in rows)
    table = _columns(rows, metric)
    table["x"] = numbers([row[key] for row in rows]) if numeric else [text(row[key]) for row in rows]
    words = _band(table, found) if sliced else ""
    words += found.held(pivot, [key]) if sliced else " A dot per point of the search; other keys differ, too."
    wide = numeric and bool(rows) and is_wide(min(table["x"]), max(table["x"]))
    low, high = _clipped(table)
    chart = _response_chart(found, shown(key), metric, (numeric, wide, is_wide(low, high)), sliced)
    return Figure(
        f"response-{key}-{metric}", f"{metric} by {shown(key)}", words.strip(), chart, {"rows": table},
        tuple(found.systems),
    )  # fmt: skip


def _band(table: dict[str, list[Any]], found: Found) -> str:
    if all(value is None for value in table["low"]):
        return "One seed per point: no interval."
    return f"Dots are means over seeds, bars their {found.confidence:.0%} intervals."


def _columns(rows: Sequence[Row], metric: str) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {"system": [str(row["system"]) for row in rows]}
    for name, key in (("value", metric), ("low", f"{metric}.low"), ("high", f"{metric}.high")):
        table[name] = numbers([float("nan") if row[key] is None else row[key] for row in rows])
    return table


def _clipped(table: dict[str, list[Any]]) -> tuple[float, float]:
    """Return the least and greatest mean; where an axis from one to the other is logarithmic, cut bars above 0."""
    values = table["value"] or [0.0]
    low, high = min(values), max(values)
    if is_wide(low, high):
        table["low"] = [None if bar is None else max(bar, low / 2) for bar in table["low"]]
    return low, high


def _response_chart(
    found: Found, key: str, metric: str, scales: tuple[bool, bool, bool], sliced: bool
) -> Any:
    import altair as alt

    numeric, wide, tall = scales
    if tall:
        upright, metric = alt.Scale(type="log", nice=False, padding=8), f"{metric}, log scale"
    else:
        upright = alt.Scale(zero=not wide or not numeric)
    scale = alt.Scale(type="log", nice=False, padding=8) if wide else alt.Scale(zero=False, padding=8)
    title = f"{key}, log scale" if wide else key
    x = alt.X("x:Q", title=title, scale=scale) if numeric else alt.X("x:N", title=title, sort=None)
    y = alt.Y("value:Q", title=metric, scale=upright, axis=alt.Axis(tickCount=4))
    told = [alt.Tooltip("system:N"), alt.Tooltip("x:Q" if numeric else "x:N", title=key)]
    told += [alt.Tooltip(f"{name}:Q", format=",.4~g") for name in ("value", "low", "high")]
    base = alt.Chart(data(), height=170).encode(x=x, color=color(list(found.systems)), tooltip=told)
    dots = base.mark_point(filled=True, size=34, opacity=0.9).encode(y=y)
    if not sliced:
        return dots
    bars = base.mark_rule(strokeWidth=1.4, opacity=0.55).encode(
        y=alt.Y("low:Q", title=metric, scale=upright), y2="high:Q"
    )
    return base.mark_line(strokeWidth=1.5).encode(y=y) + bars + dots


def thinned(rows: Sequence[Row]) -> list[Row]:
    """Return at most `MOST` rows, those of the front and the best among them."""
    step = -(-len(rows) // MOST)
    return [row for place, row in enumerate(rows) if place % step == 0 or row["front"] or row["best"]]


# --- two keys ----------------------------------------------------------------------------------------------


def heat_figures(found: Found, metric: str) -> list[Figure]:
    """Return a heat map per system over the two keys with the most values, if those make a grid."""
    pivot = found.pivot()
    axes = sorted(found.axes, key=lambda key: -len(found.values(key)))[:2]
    if pivot is None or len(axes) < 2:
        return []
    rows = _varying(found.through(pivot, axes), metric)
    cells = len(found.values(axes[0])) * len(found.values(axes[1]))
    if len({(row[axes[0]], row[axes[1]]) for row in rows}) != cells or cells > CELLS:
        return []
    span = [row[metric] for row in rows if row[metric] is not None]
    systems = dict.fromkeys(str(row["system"]) for row in rows)
    return [_heat(found, system, axes, metric, rows, span, pivot) for system in systems]


def _varying(rows: list[Row], metric: str) -> list[Row]:
    """Leave out systems that the keys do nothing to."""
    values: dict[str, set[float | None]] = {}
    for row in rows:
        values.setdefault(row["system"], set()).add(row[metric])
    return [row for row in rows if len(values[row["system"]]) > 1]


def _heat(
    found: Found, system: str, axes: list[str], metric: str, rows: list[Row], span: list[float], pivot: Row
) -> Figure:
    mine = [row for row in rows if row["system"] == system]
    low, high = min(span), max(span)
    table = _columns(mine, metric)
    for name, key in zip("xy", axes, strict=True):
        table[name] = [text(row[key]) for row in mine]
    table["text"] = [text(row[metric]) for row in mine]
    table["best"] = ["best" if row["best"] else "" for row in mine]
    log = is_wide(low, high)
    words = "Colours on a log scale, brighter is more" if log else "Brighter is more"
    if len({str(row["system"]) for row in rows}) > 1:
        words += "; the same for every system"
    words += f".{found.held(pivot, axes)}"
    orders = [[text(value) for value in found.values(key)] for key in axes]
    chart = _heat_chart([shown(key) for key in axes], orders, (low, high), log, cells=len(mine))
    title = f"{metric} under {shown(system)}"
    return Figure(f"heat-{system}-{metric}", title, words, chart, {"rows": table})


def _heat_chart(
    axes: list[str], orders: list[list[str]], span: tuple[float, float], log: bool, cells: int
) -> Any:
    import altair as alt

    place = (
        "(log(datum.value) - log({0})) / (log({1}) - log({0}))"
        if log
        else "(datum.value - {0}) / ({1} - {0})"
    )
    level = place.format(*span) if span[1] > span[0] else "0"
    x = alt.X("x:N", title=axes[0], sort=orders[0], axis=alt.Axis(labelAngle=0))
    y = alt.Y("y:N", title=axes[1], sort=orders[1][::-1], axis=alt.Axis(labelLimit=90))
    told = [alt.Tooltip("x:N", title=axes[0]), alt.Tooltip("y:N", title=axes[1])]
    told += [alt.Tooltip(f"{name}:Q", format=",.4~g") for name in ("value", "low", "high")]
    base = alt.Chart(data(), height=max(120, 30 * len(orders[1]))).transform_calculate(level=level)
    shade = alt.Color("level:Q", legend=None, scale=alt.Scale(scheme="viridis", domain=[0, 1]))
    tiles = base.mark_rect().encode(x=x, y=y, color=shade, tooltip=told)
    best = base.transform_filter("datum.best == 'best'")
    tiles += best.mark_rect(fillOpacity=0, stroke="#ff5a1f", strokeWidth=3).encode(x=x, y=y)
    if cells > CELLS // 6:
        return tiles
    ink = alt.condition("datum.level > 0.55", alt.value("#101418"), alt.value("#ffffff"))
    return tiles + base.mark_text(fontSize=11).encode(x=x, y=y, text="text:N", color=ink, tooltip=told)


# --- two objectives ----------------------------------------------------------------------------------------


def pareto_figure(found: Found, first: str, second: str) -> Figure | None:
    """Return every candidate by two metrics; those on the front are filled and large."""
    rows = [row for row in found.rows if row[first] is not None and row[second] is not None]
    if not rows:
        return None
    kept = thinned(rows)
    what = ["best" if row["best"] else "front" if row["front"] else "other" for row in kept]
    table: dict[str, list[Any]] = {
        "system": [str(row["system"]) for row in kept],
        "x": numbers([row[first] for row in kept]),
        "y": numbers([row[second] for row in kept]),
        "what": what,
        "at": [", ".join(f"{shown(key)} {text(row[key])}" for key in found.axes) for row in kept],
    }
    words = (
        "Filled: nothing else that meets the constraints is better in every objective; the ring is the best."
    )
    if len(kept) < len(rows):
        words += f" {len(kept):,} of {len(rows):,} points are drawn, all of the front among them."
    chart = _pareto_chart(found, (first, second), [table["x"], table["y"]])
    title = f"{second} against {first}"
    return Figure(f"pareto-{first}-{second}", title, words, chart, {"rows": table}, tuple(found.systems))


def _pareto_chart(found: Found, names: tuple[str, str], columns: list[list[float]]) -> Any:
    import altair as alt

    axes: list[Any] = []
    for field, name, values, axis in zip("xy", names, columns, (alt.X, alt.Y), strict=True):
        wide = is_wide(min(values), max(values))
        scale = alt.Scale(type="log", nice=False, padding=10) if wide else alt.Scale(zero=False, padding=10)
        axes.append(axis(f"{field}:Q", title=f"{name}, log scale" if wide else name, scale=scale))
    told = [alt.Tooltip("system:N"), alt.Tooltip("at:N", title="at")]
    told += [alt.Tooltip(f"{f}:Q", title=n, format=",.4~g") for f, n in zip("xy", names, strict=True)]
    base = alt.Chart(data(), height=260).encode(
        x=axes[0], y=axes[1], color=color(list(found.systems)), tooltip=told
    )
    others = base.transform_filter("datum.what == 'other'").mark_point(size=26, opacity=0.6, strokeWidth=1.2)
    front = base.transform_filter("datum.what != 'other'").mark_point(filled=True, size=80, opacity=1)
    best = base.transform_filter("datum.what == 'best'").mark_point(size=300, strokeWidth=2)
    return others + front + best
