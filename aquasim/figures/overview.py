"""The whole time in a strip, to choose a part of it from."""

from typing import Any

from aquasim.figures.load import running, waiting
from aquasim.figures.parts import color, data
from aquasim.figures.series import Steps, Systems, edges_of, horizon, of_changes, peaks, stack, stepped
from aquasim.figures.theme import Figure
from aquasim.records.run import Run

BINS = 200


def overview(systems: Systems, prefix: str = "") -> Figure:
    """Return the requests in each system over time, small, with the chosen time shaded."""
    end = horizon(systems)
    edges = edges_of(end, BINS)
    names = [label for label, _ in systems]
    parts = []
    for label, run in systems:
        parts.append(stepped(label, run, edges, peaks(_present(run), edges)))
    tables: dict[str, dict[str, list[Any]]] = {"rows": stack(parts), "shade": {"one": [1]}}
    title = "Requests in each system over the whole run"
    return Figure(f"{prefix}overview", title, "", _chart(names, end), tables, tuple(names), window=end)


def _present(run: Run) -> Steps:
    """Return requests that came and did not end; of engines without requests, units in the making."""
    rows = run.columns("requests")
    if len(rows["request"]):
        import numpy as np

        ones = np.ones(len(rows["request"]))
        times = np.concatenate((rows["arrival_ns"], rows["finished_ns"]))
        return of_changes(times, np.concatenate((ones, -ones)))
    steps = running(run)
    return steps if len(steps.times) else waiting(run)


def _chart(names: list[str], end: float) -> Any:
    import altair as alt

    x = alt.X("t:Q", title=None, scale=alt.Scale(domain=[0, end], nice=False), axis=alt.Axis(tickSize=3))
    y = alt.Y("value:Q", title=None, axis=None)
    line = alt.Chart(data(), height=34).mark_line(strokeWidth=1.1, interpolate="step-after")
    line = line.encode(x=x, y=y, color=color(names))
    brush = alt.selection_interval(
        name="brush", encodings=["x"], mark=alt.BrushConfig(fillOpacity=0, strokeOpacity=0)
    )
    begin = alt.value({"expr": "scale('x', begin)"})
    until = alt.value({"expr": "scale('x', until)"})
    shade = alt.Chart(data("shade")).mark_rect(color="#5f9fd6", opacity=0.22).encode(x=begin, x2=until)
    return shade + line.add_params(brush)
