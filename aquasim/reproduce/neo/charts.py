"""Charts of NEO's evaluation: our curves, and the paper's points drawn in."""

from collections.abc import Sequence
from typing import Any


def load_chart(title: str, rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]]) -> Any:
    """Return seconds per output token by requests per second, a line per system; the paper's points as crosses.

    `rows` and `published`: system, rate, latency_s.
    """
    import altair as alt
    import pandas as pd

    x = alt.X("rate:Q", title="requests per second")
    y = alt.Y("latency_s:Q", scale=alt.Scale(type="log"), title="seconds per output token")
    color = alt.Color("system:N", title=None)
    base = alt.Chart(pd.DataFrame(rows), title=title, width=420, height=260)
    lines = base.mark_line(point=True).encode(x=x, y=y, color=color)
    return lines + _points(published, x, y, color)


def length_chart(title: str, rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]]) -> Any:
    """Return throughput over that of the GPU alone by tokens of output, a line per series; the paper's as crosses.

    `rows` and `published`: series, output, ratio.
    """
    import altair as alt
    import pandas as pd

    x = alt.X("output:Q", title="output tokens (within 10 %)")
    y = alt.Y("ratio:Q", scale=alt.Scale(zero=False), title="throughput, times the baseline")
    color = alt.Color("series:N", title=None)
    base = alt.Chart(pd.DataFrame(rows), title=title, width=420, height=260)
    one = (
        alt.Chart(pd.DataFrame({"ratio": [1.0]}))
        .mark_rule(strokeDash=[2, 2], color="gray")
        .encode(y="ratio:Q")
    )
    return one + base.mark_line(point=True).encode(x=x, y=y, color=color) + _points(published, x, y, color)


def host_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the gain by host bandwidth at fixed cores, and by cores at fixed bandwidth."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(rows)
    panels = [
        alt.Chart(part, title=str(title), width=260, height=220)
        .mark_line(point=True)
        .encode(
            x=alt.X("value:Q", title=str(title).split(",")[0], scale=alt.Scale(type="log", base=2)),
            y=alt.Y("ratio:Q", scale=alt.Scale(zero=False), title="throughput, times the baseline"),
        )
        for title, part in frame.groupby("sweep", sort=False)
    ]
    return alt.hconcat(*panels).resolve_scale(y="shared")


def _points(published: Sequence[dict[str, Any]], x: Any, y: Any, color: Any) -> Any:
    import altair as alt
    import pandas as pd

    columns = ["system", "series", "rate", "latency_s", "output", "ratio"]
    frame = pd.DataFrame(list(published), columns=columns)
    return alt.Chart(frame).mark_point(shape="cross", size=90, strokeWidth=2).encode(x=x, y=y, color=color)
