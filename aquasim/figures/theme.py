"""How every figure looks: one palette that colour-blind readers can tell apart, in a light and a dark form.

Colours come from Vega's config, so that one chart is drawn in either form without being built again.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from aquasim.figures.text import clean

Mode = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CATEGORY: dict[Mode, list[str]] = {
    "light": ["#66707d", "#0072b2", "#d55e00", "#00805e", "#a8438c", "#9a6b00", "#5b3fa8", "#8c4a33"],
    "dark": ["#aab3bf", "#56a9e4", "#ff8f4f", "#35c79b", "#e08fcb", "#e6b84a", "#b9a3ff", "#d39b86"],
}
"""After Okabe and Ito, the first one grey for what others are compared with; eight, then again from the start."""

KINDS = {
    "waiting or paged out": "#8a949f",
    "prefill": "#e08a00",
    "decode": "#2a9d74",
    "decode on the host": "#8d6bd0",
    "page out": "#d8436b",
    "page in": "#3d8fd1",
    "between tiers": "#a07d5a",
}
"""What happens to a request; readable on light and on dark ground."""

_INK: dict[Mode, dict[str, str]] = {
    "light": {"text": "#3d4650", "strong": "#1b2129", "line": "#b9c0c8", "grid": "#e6e9ed"},
    "dark": {"text": "#b8c0ca", "strong": "#e9edf2", "line": "#4f5965", "grid": "#2b323b"},
}
STATIC_WIDTH, SCALE = 680, 2.0


def config(mode: Mode = "light", legend: bool = True) -> dict[str, Any]:
    """Return Vega-Lite's config; without `legend` where the page has one of its own."""
    ink = _INK[mode]
    axis = {
        "labelColor": ink["text"], "titleColor": ink["text"], "tickColor": ink["line"], "domainColor": ink["line"],
        "gridColor": ink["grid"], "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
        "labelOverlap": True, "titlePadding": 6,
    }  # fmt: skip
    words = {"labelColor": ink["text"], "titleColor": ink["text"]}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "mark": {"color": CATEGORY[mode][1]},
        "axis": axis,
        "axisX": {"grid": False, "tickCount": {"expr": "max(3, floor(width / 80))"}},
        "axisY": {"domain": False, "ticks": False, "minExtent": 34, "tickCount": 5},
        "legend": {**words, "orient": "top", "title": None, "columns": 5, "disable": not legend},
        "title": {"color": ink["strong"], "anchor": "start", "fontSize": 13, "fontWeight": 600, "offset": 10},
        "header": words,
        "text": {"color": ink["text"]},
        "rule": {"color": ink["line"]},
        "range": {"category": CATEGORY[mode]},
    }  # fmt: skip


class Figure(NamedTuple):
    """A chart with its data and the words beside it.

    `name` is a file's stem, `title` says what is shown, `text` how to read it and what was folded. `chart` refers to
    its data by the names in `data`, each a table of columns. `legend` names the series in the order of `colors`.
    Where `window` is set, the horizontal axis is time from 0 to so many seconds, and may be zoomed.
    """

    name: str
    title: str
    text: str
    chart: Any
    data: dict[str, dict[str, list[Any]]]
    legend: tuple[str, ...] = ()
    kinds: bool = False
    window: float | None = None


def spec(figure: Figure) -> dict[str, Any]:
    """Return the figure as Vega-Lite, without its data, as wide as what it is put into."""
    chart: dict[str, Any] = figure.chart.to_dict()
    chart.pop("config", None)
    chart |= {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    if figure.window is not None:
        given = {"begin": 0.0, "until": figure.window}
        chart["params"] = [*chart.get("params", []), *({"name": k, "value": v} for k, v in given.items())]
    return chart


def static(figure: Figure) -> dict[str, Any]:
    """Return the figure as Vega-Lite that stands alone: title, data, legend, a width in pixels."""
    chart = spec(figure)
    tables = {name: _rows(columns) for name, columns in figure.data.items()}
    title = {"text": figure.title, "limit": STATIC_WIDTH}
    whole = {"datasets": tables, "width": STATIC_WIDTH, "title": title, "padding": 12}
    alone: dict[str, Any] = clean({**chart, **whole})
    return {**alone, "config": {**config("light"), "background": "white"}}


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def svg(figure: Figure) -> str:
    """Draw a figure as SVG, without a browser."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(static(figure), vl_version=vega_lite()))


def png(figure: Figure) -> bytes:
    """Draw a figure as PNG, without a browser."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(static(figure), vl_version=vega_lite(), scale=SCALE))


def vega_lite() -> str:
    """Return the version of Vega-Lite that Altair writes, as vl-convert wants it: 6.4, say."""
    from altair.vegalite import SCHEMA_VERSION

    return ".".join(SCHEMA_VERSION.lstrip("v").split(".")[:2])


def save_all(figures: list[Figure], folder: Path) -> list[Path]:
    """Write every figure as SVG and PNG; returns the files. Names that meet are told apart by a number."""
    from aquasim.records.atomic import new_file

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, figure in zip(stems([f.name for f in figures]), figures, strict=True):
        for suffix, drawn in ((".svg", svg(figure).encode()), (".png", png(figure))):
            with new_file(folder / f"{stem}{suffix}") as part:
                part.write_bytes(drawn)
            written.append(folder / f"{stem}{suffix}")
    return written


def stems(names: list[str]) -> list[str]:
    """Return file names that any system can have: letters, digits, dashes; none twice, none longer than 80."""
    found: list[str] = []
    for name in names:
        letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
        plain = "-".join(part for part in letters.split("-") if part)[:72].strip("-") or "figure"
        number, stem = 2, plain
        while stem in found:
            stem, number = f"{plain}-{number}", number + 1
        found.append(stem)
    return found


def themed(chart: Any) -> Any:
    """Give an Altair chart that stands alone, of several panels perhaps, the same look on white."""
    looks = {**config("light"), "background": "white"}
    plain: dict[str, Any] = {"axisX": {}, "axisY": {"ticks": False}, "legend": {}, "rule": {}, "text": {}}
    return chart.properties(config={**looks, **plain})
