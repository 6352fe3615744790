"""Simulated against measured times: on the diagonal they are equal."""

from collections.abc import Sequence
from typing import Any

from aquasim.figures.parts import color, data
from aquasim.figures.series import numbers
from aquasim.figures.theme import Figure

MOST = 3000


def agreement_figure(rows: Sequence[dict[str, Any]]) -> Figure | None:
    """Return a dot per time. `rows`: metric, statistic, run, measured and simulated in seconds; None without any."""
    found = [row for row in rows if row["measured"] > 0 and row["simulated"] > 0]
    if not found:
        return None
    step = -(-len(found) // MOST)
    shown = found[::step]
    text = "A dot per statistic of a run; on the line the two are equal. Both axes are logarithmic."
    if step > 1:
        text += f" One in {step} of {len(found):,} is drawn."
    table = {
        "system": [row["metric"] for row in shown],
        "what": [f"{row['run']}, {row['statistic']}" for row in shown],
        "x": numbers([row["measured"] for row in shown]),
        "y": numbers([row["simulated"] for row in shown]),
    }
    ends = [min(table["x"] + table["y"]), max(table["x"] + table["y"])]
    names = list(dict.fromkeys(row["metric"] for row in found))
    tables = {"rows": table, "line": {"x": ends, "y": ends}}
    return Figure("agreement", "Simulated against measured", text, _chart(names), tables, tuple(names))


def _chart(names: list[str]) -> Any:
    import altair as alt

    axes = [
        axis(f"{field}:Q", title=f"{title}, s", scale=alt.Scale(type="log", nice=False, padding=10))
        for axis, field, title in ((alt.X, "x", "measured"), (alt.Y, "y", "simulated"))
    ]
    told = [alt.Tooltip("what:N", title="of"), alt.Tooltip("system:N", title="time")]
    told += [
        alt.Tooltip(f"{f}:Q", title=t, format=",.4~g") for f, t in (("x", "measured"), ("y", "simulated"))
    ]
    dots = alt.Chart(data(), height=280).mark_point(filled=True, size=34, opacity=0.75)
    line = alt.Chart(data("line")).mark_line(strokeDash=[4, 3], strokeWidth=1.2, opacity=0.7)
    return line.encode(x=axes[0], y=axes[1]) + dots.encode(
        x=axes[0], y=axes[1], color=color(names), tooltip=told
    )
