"""A paper's claim beside what was simulated: ranges with their medians."""

from collections.abc import Sequence
from typing import Any

from aquasim.figures.parts import data
from aquasim.figures.series import numbers
from aquasim.figures.theme import CATEGORY, Figure


def claim_figure(name: str, rows: Sequence[dict[str, Any]], paper: float | None) -> Figure:
    """Return factors over the baseline. `rows`: system, low, mid, high; `paper` is drawn as a dashed line."""
    table = {key: numbers([row[key] for row in rows]) for key in ("low", "mid", "high")}
    tables: dict[str, dict[str, list[Any]]] = {
        "rows": {"system": [row["system"] for row in rows], **table},
        "paper": {"paper": [] if paper is None else [paper]},
    }
    text = "Dots are medians, bars ranges." + (
        " The dashed line is the paper's number." if paper is not None else ""
    )
    return Figure(name, "Times the baseline", text, _chart(len(rows), paper is not None), tables)


def _chart(rows: int, paper: bool) -> Any:
    import altair as alt

    scale = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X("low:Q", title="times the baseline, log scale", scale=scale)
    y = alt.Y("system:N", title=None, sort=None, axis=alt.Axis(labelLimit=160))
    told = [
        alt.Tooltip("system:N"),
        *(alt.Tooltip(f"{key}:Q", format=".3~g") for key in ("low", "mid", "high")),
    ]
    base = alt.Chart(data(), height=20 * rows).encode(y=y, tooltip=told)
    ranges = base.mark_rule(strokeWidth=4, opacity=0.5, color=CATEGORY["dark"][1]).encode(x=x, x2="high:Q")
    middle = base.mark_point(filled=True, size=55, opacity=1, color="#3d8fd1").encode(
        x=alt.X("mid:Q", scale=scale)
    )
    if not paper:
        return ranges + middle
    return ranges + middle + alt.Chart(data("paper")).mark_rule(strokeDash=[4, 3]).encode(x="paper:Q")
