"""What moved over the links: bytes per second by direction and tier, beside what the links could carry."""

from typing import Any, NamedTuple

import numpy as np

from aquasim.figures.parts import color, data, time_axis, tips
from aquasim.figures.series import Systems, edges_of, horizon, numbers, spread, stack, stepped
from aquasim.figures.theme import Figure
from aquasim.records.run import Run
from aquasim.records.stats import Floats, Ints

BINS = 240
PORTS = {"to peer": "nvlink-out", "from peer": "nvlink-in", "to host": "d2h", "from host": "h2d"}
"""The links behind a direction, by the end of their names."""


class Flow(NamedTuple):
    """Bytes that moved between times."""

    starts: Ints
    ends: Ints
    sizes: Ints


def link_figures(systems: Systems, prefix: str = "") -> list[Figure]:
    """Return a figure per direction that carried anything."""
    end = horizon(systems)
    edges = edges_of(end, BINS)
    flows = {label: flows_of(run) for label, run in systems}
    paths = list(dict.fromkeys(path for found in flows.values() for path in found))
    names = [label for label, _ in systems]
    return [_figure(path, flows, systems, edges, names, prefix) for path in sorted(paths)]


def flows_of(run: Run) -> dict[str, list[Flow]]:
    """Return what each direction carried: pages, objects fetched, bytes that work read."""
    found: dict[str, list[Flow]] = {}
    for engine in range(len(run.engines)):
        for path, flow in (*_pages(run, engine), *_fetches(run, engine), *_work(run, engine)):
            if flow.sizes.any():
                found.setdefault(path, []).append(flow)
    return found


def _pages(run: Run, engine: int) -> list[tuple[str, Flow]]:
    sizes = run.meta.get("block_bytes")
    size = sizes.get(run.engines[engine]) if isinstance(sizes, dict) else sizes
    rows = run.columns("transfers", engine)
    if not size or not len(rows["kind"]):
        return []
    found = []
    words = {"out": "to", "in": "from", "migrate": "on from"}
    for kind, name in enumerate(run.labels["kind"]):
        for tier, place in enumerate(run.labels["tier"]):
            mine = (rows["kind"] == kind) & (rows["tier"] == tier)
            flow = Flow(rows["start_ns"][mine], rows["end_ns"][mine], rows["blocks"][mine] * int(size))
            found.append((f"{words.get(name, name)} {place}", flow))
    return found


def _fetches(run: Run, engine: int) -> list[tuple[str, Flow]]:
    rows = run.columns("fetches", engine)
    masks = [(name, rows["source"] == code) for code, name in enumerate(run.labels["source"])]
    return [
        (f"from {name}", Flow(rows["start_ns"][mine], rows["end_ns"][mine], rows["bytes"][mine]))
        for name, mine in masks
    ]


def _work(run: Run, engine: int) -> list[tuple[str, Flow]]:
    rows = run.columns("work", engine)
    return [
        (f"from {tier}", Flow(rows["start_ns"], rows["end_ns"], rows[f"{tier}_bytes"]))
        for tier in ("peer", "host")
    ]


def capacity(run: Run, path: str) -> float | None:
    """Return bytes per second of the links behind a direction, of the run's own GPUs; None where not stored."""
    links = run.meta.get("links") or {}
    machine = (run.meta.get("scenario") or {}).get("machine") or {}
    gpus = run.meta.get("gpus") or machine.get("gpus") or []
    suffix = f".{PORTS.get(path)}"
    ports = {f"gpu{gpu}{suffix}" for gpu in gpus} or {name for name in links if name.endswith(suffix)}
    return float(sum(link["capacity"] for name, link in links.items() if name in ports)) or None


def _figure(
    path: str,
    flows: dict[str, dict[str, list[Flow]]],
    systems: Systems,
    edges: Floats,
    names: list[str],
    prefix: str,
) -> Figure:
    width = edges[1] - edges[0]
    parts = []
    for label, run in systems:
        flow = flows[label].get(path)
        if flow:
            moved = sum(spread(*one, edges) for one in flow)
            parts.append(stepped(label, run, edges, np.maximum(moved, 0) / width / 1e9))
    rows = stack(parts)
    most = max(rows["value"])
    limit = max((capacity(run, path) or 0.0 for _, run in systems), default=0.0) / 1e9
    drawn = limit if 0 < limit < 4 * most else None
    text = f"Each point is the mean over {width:,.3g} s. {_limit(limit, most, drawn)}".strip()
    tables = {"rows": rows, "limits": {"limit": [] if drawn is None else numbers([drawn])}}
    return Figure(
        f"{prefix}link-{path}", f"Bytes moved {path}", text, _chart(names, drawn), tables, tuple(names),
        window=float(edges[-1]),
    )  # fmt: skip


def _limit(limit: float, most: float, drawn: float | None) -> str:
    if not limit:
        return "The records do not say what the links could carry."
    share = f"{100 * most / limit:.0f} %" if most > 0.01 * limit else "under 1 %"
    where = "the dashed line" if drawn else "beyond the scale"
    return f"The links could carry {limit:,.3g} GB/s ({where}); the busiest point uses {share} of it."


def _chart(names: list[str], drawn: float | None) -> Any:
    import altair as alt

    told = tips(system="system", t="from (s)", value="GB/s")
    line = alt.Chart(data(), height=160).mark_line(strokeWidth=1.6, interpolate="step-after", clip=True)
    chart = line.encode(x=time_axis(), y=alt.Y("value:Q", title="GB/s"), color=color(names), tooltip=told)
    if drawn is None:
        return chart
    rule = alt.Chart(data("limits")).mark_rule(strokeDash=[5, 4])
    return chart + rule.encode(y="limit:Q", tooltip=tips(limit="capacity (GB/s)"))
