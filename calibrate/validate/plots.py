"""Measured against simulated distributions, drawn as SVG or PNG in the look of all figures."""

from pathlib import Path
from typing import Any

import numpy as np

from aquasim.calibrate.validate.replay import Replayed
from aquasim.calibrate.validate.runs import Floats, MeasuredRun

_POINTS = 201
_WIDE = 20  # longest over shortest time from which an axis is logarithmic
_TITLES = {"ttft": "TTFT (s)", "tpot": "TPOT (s)", "itl": "inter-token latency (s)", "e2e": "end to end (s)"}


def plot_run(measured: MeasuredRun, replayed: Replayed, folder: Path, form: str = "svg") -> list[Path]:
    """Draw one file per part of a run that has samples; returns the files written. `form` is svg or png."""
    written = []
    for part in measured.parts:
        panels = [
            _panel(metric, {"measured": values, "simulated": replayed.samples(part, metric)})
            for metric, values in part.samples.items()
            if len(values)
        ]
        if not panels:
            continue
        name = f"{measured.dataset}-{measured.name}-{part.name}".replace("/", "-per-")
        path = folder / f"{name}.{form}"
        _save(panels, f"{measured.name}, {part.name}", path)
        written.append(path)
    return written


def _panel(metric: str, samples: dict[str, Floats]) -> Any:
    """Return a chart of cumulative distributions, a line each."""
    import altair as alt
    import pandas as pd

    shares = np.linspace(0, 1, _POINTS)
    frame = pd.concat(
        pd.DataFrame({"seconds": np.quantile(values, shares), "share": shares, "run": name})
        for name, values in samples.items()
        if len(values)
    )
    wide = frame.seconds.max() > _WIDE * max(frame.seconds.min(), 1e-9)
    scale = alt.Scale(type="log" if wide and frame.seconds.min() > 0 else "linear", nice=False, zero=False)
    return (
        alt.Chart(frame, width=260, height=200)
        .mark_line()
        .encode(
            x=alt.X("seconds:Q", title=_TITLES[metric], scale=scale),
            y=alt.Y("share:Q", title="share of requests" if metric != "itl" else "share of tokens"),
            color=alt.Color("run:N", title=None, scale=alt.Scale(domain=list(samples), range="category")),
            order="share:Q",
        )
    )


def _save(panels: list[Any], title: str, path: Path) -> None:
    import altair as alt

    from aquasim.figures.theme import themed

    path.parent.mkdir(parents=True, exist_ok=True)
    themed(alt.hconcat(*panels).properties(title=title)).save(str(path))
