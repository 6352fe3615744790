"""Charts of findings, by Altair, in the look of all figures; saved as PNG or SVG without a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCALE = 2.0


def save(chart: Any, path: Path) -> None:
    """Write a chart; the suffix says how."""
    from aquasim.figures.theme import themed

    path.parent.mkdir(parents=True, exist_ok=True)
    themed(chart).save(str(path), scale_factor=SCALE)


def claims_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Return simulated ranges with their medians beside the published factor.

    `rows`: claim, system, low, mid, high, and paper (None where there is no number).
    """
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(rows)
    panels = [_claim_panel(part, str(title)) for title, part in frame.groupby("claim", sort=False)]
    return alt.vconcat(*panels).resolve_scale(x="independent", color="independent")


def _claim_panel(part: Any, title: str) -> Any:
    import altair as alt

    axis = alt.X("low:Q", scale=alt.Scale(type="log"), title="times the baseline; dashed: the paper")
    base = alt.Chart(part, title=alt.Title(title, anchor="start"), width=420, height={"step": 16}).encode(
        y=alt.Y("system:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    )
    ranges = base.mark_rule(strokeWidth=4, opacity=0.45).encode(x=axis, x2="high:Q")
    middle = base.mark_point(filled=True, size=50).encode(x=alt.X("mid:Q", scale=alt.Scale(type="log")))
    paper = base.mark_tick(color="black", thickness=2, size=14, strokeDash=[3, 2]).encode(
        x=alt.X("paper:Q", scale=alt.Scale(type="log"))
    )
    return ranges + middle + paper


def elastic_chart(
    title: str, rates: dict[str, list[tuple[float, float]]], waits: dict[str, dict[str, list[float]]]
) -> Any:
    """Return the consumer's tokens per second over time above the donor's TTFT by arrival."""
    import altair as alt
    import pandas as pd

    speed = pd.DataFrame(
        [{"s": s, "tokens/s": v, "run": name} for name, line in rates.items() for s, v in line]
    )
    ttft = pd.concat(
        pd.DataFrame({"s": table["arrival_s"], "TTFT (s)": table["ttft_s"], "run": name})
        for name, table in waits.items()
    )
    axis = alt.X("s:Q", title="seconds", scale=alt.Scale(domain=[0, 480]))
    above = (
        alt.Chart(speed, title=f"{title}: the consumer", width=520, height=160)
        .mark_line(interpolate="step-after")
        .encode(x=axis, y="tokens/s:Q", color=alt.Color("run:N", title=None))
    )
    below = (
        alt.Chart(ttft, title="the donor", width=520, height=160)
        .mark_point(size=12, filled=True)
        .encode(x=axis, y="TTFT (s):Q", color=alt.Color("run:N", title=None))
    )
    return alt.vconcat(above, below).resolve_scale(color="independent")


def links_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Return bandwidth by size of copy, a line per link, a panel per server."""
    import altair as alt
    import pandas as pd

    return (
        alt.Chart(pd.DataFrame(rows), width=300, height=220)
        .mark_line(point=True)
        .encode(
            x=alt.X("KiB:Q", scale=alt.Scale(type="log", base=2), title="KiB per copy"),
            y=alt.Y("GB/s:Q", scale=alt.Scale(type="log")),
            color=alt.Color("link:N", title=None),
            column=alt.Column("server:N", title=None),
        )
    )


def profiles_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Return throughput (share of the best) and free memory by batch, a line per model."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(rows)
    panels = []
    for server, part in frame.groupby("server", sort=True):
        base = alt.Chart(part, width=280, height=200).encode(
            x=alt.X("batch:Q", scale=alt.Scale(type="log", base=2)),
            color=alt.Color("model:N", title=None),
            strokeDash=alt.StrokeDash("kind:N", title=None),
        )
        panels.append(
            alt.hconcat(
                base.mark_line(point=True).encode(y=alt.Y("throughput:Q", title="share of best throughput")),
                base.mark_line(point=True).encode(y=alt.Y("free GiB:Q")),
                title=str(server),
            )
        )
    return alt.vconcat(*panels)


def ablation_chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Return two heat maps: the grid's TTFT and completion times, p99."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(rows)
    order = ["fcfs", *sorted({row["slice"] for row in rows} - {"fcfs"}, key=int)]
    panels = []
    for figure in ("TTFT p99 (s)", "RCT p99 (s)"):
        base = alt.Chart(frame, title=figure, width=300, height=240).encode(
            x=alt.X("slice:O", sort=order, title="slice, decode iterations"),
            y=alt.Y("pages:N", title=None, sort=None),
        )
        color = alt.Color(
            f"{figure}:Q", scale=alt.Scale(type="log", scheme="viridis", reverse=True), legend=None
        )
        dark = (frame[figure].min() * frame[figure].max()) ** 0.5
        text = base.mark_text(fontSize=10).encode(
            text=alt.Text(f"{figure}:Q", format=".3g"),
            color=alt.condition(alt.datum[figure] > dark, alt.value("white"), alt.value("black")),
        )
        panels.append(base.mark_rect().encode(color=color) + text)
    return alt.hconcat(*panels).resolve_scale(color="independent")
