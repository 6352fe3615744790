"""How far simulated figures are from measured ones."""

from collections.abc import Sequence
from typing import Any

from aquasim.figures.parts import data, tips
from aquasim.figures.series import numbers
from aquasim.figures.theme import Figure

MOST = 3000
SPAN = 0.6
"""Error at which the axis ends; what is further off is drawn there and the text says so."""


def errors_figure(title: str, rows: Sequence[dict[str, Any]], text: str) -> Figure:
    """Return signed errors by metric: a dot each. `rows`: system, metric, error."""
    step = -(-len(rows) // MOST)
    shown = rows[::step]
    if step > 1:
        text += f" One in {step} of {len(rows):,} is drawn."
    beyond = sum(abs(row["error"]) > SPAN for row in shown)
    if beyond:
        text += f" {beyond:,} dots are further off than {SPAN:.0%} and drawn at the edge."
    table = {
        "system": [row["system"] for row in shown],
        "metric": [row["metric"] for row in shown],
        "error": numbers([row["error"] for row in shown]),
        "drawn": numbers([max(-SPAN, min(SPAN, row["error"])) for row in shown]),
    }
    return Figure(
        "errors",
        title,
        text,
        _chart(len({*table["metric"]})),
        {"rows": table, "zero": {"at": [0]}},
        kinds=False,
    )


def _chart(metrics: int) -> Any:
    import altair as alt

    scale = alt.Scale(domain=[-SPAN, SPAN])
    x = alt.X(
        "drawn:Q", title="simulated against measured, signed error", axis=alt.Axis(format="+%"), scale=scale
    )
    y = alt.Y("metric:N", title=None, sort=None, axis=alt.Axis(labelLimit=110))
    dots = alt.Chart(data(), height=20 * metrics).mark_point(filled=True, size=30, opacity=0.6)
    told = [alt.Tooltip("metric:N"), alt.Tooltip("error:Q", format="+.1%"), *tips(system="system")]
    zero = alt.Chart(data("zero")).mark_rule(strokeDash=[4, 3]).encode(x="at:Q")
    return zero + dots.encode(x=x, y=y, tooltip=told)
