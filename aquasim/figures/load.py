"""How full it was over time: the queue, the running set, KV memory by tier, memory lent between GPUs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aquasim.figures.parts import color, data, time_axis, tips
from aquasim.figures.residence import paged_out
from aquasim.figures.series import (
    Steps,
    Systems,
    between,
    edges_of,
    held,
    horizon,
    means,
    of_changes,
    peaks,
    stack,
    stepped,
    total,
)
from aquasim.figures.theme import Figure
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Floats
from aquasim.records.tokens import step_ends

GIB = 2**30
Fold = Callable[[Steps, Floats], Floats]


def load_figures(systems: Systems, prefix: str = "") -> list[Figure]:
    """Return queue, running set, KV cache, what is paged out, tiers' sizes and leases: those that have any rows."""
    end = horizon(systems)
    made = (
        _lines("queue", "How many requests wait", "requests waiting", waiting, peaks, systems, end),
        _lines("running", "How many requests run at once", "requests running", running, means, systems, end),
        _lines("kv", "How full the GPU's KV cache is", "KV cache in use", kv_share, peaks, systems, end),
        _tiers("paged-out", "KV memory moved out of the GPU", paged_out, systems, end),
        _tiers("tiers", "How large each tier is", tier_sizes, systems, end),
        _tiers("leases", "Memory lent between GPUs", lent, systems, end),
    )
    return [figure._replace(name=f"{prefix}{figure.name}") for figure in made if figure is not None]


TEXTS = {
    "queue": "Not yet admitted, or preempted and computed again. Each point is the greatest number within {bin}.",
    "running": "Sequences that decode plus prompts in prefill, per iteration. Each point is the mean over {bin}.",
    "kv": "Blocks of HBM that are not free, at the ends of steps. Each point is the greatest share within {bin}.",
    "paged-out": (
        "KV cache of preempted requests by the tier that holds it until they come back (or, on a host that attends, "
        "until they end), as far as moves were recorded. Each point is the greatest amount within {bin}."
    ),
    "tiers": "As the tenants resized them: hbm is the KV cache. Each point is the greatest size within {bin}.",
    "leases": (
        "Offered: given by donors and not taken back; granted: promised to consumers; in use: what they filled. "
        "Each point is the greatest amount within {bin}."
    ),
}


def waiting(run: Run) -> Steps:
    """Return the number of waiting requests over time, all engines."""
    return total([_at_ends(run.columns("steps", e), "waiting") for e in range(len(run.engines))])


def running(run: Run) -> Steps:
    """Return how many sequences are in the iteration that runs, all engines; 0 between steps."""
    parts = []
    for engine in range(len(run.engines)):
        steps = run.columns("steps", engine)
        parts.append(between(steps["start_ns"], step_ends(steps), steps["batch"] + steps["prefills"]))
    return total(parts)


def kv_share(run: Run) -> Steps | None:
    """Return the share of HBM blocks in use over all engines that have a KV cache."""
    sizes = run.meta.get("blocks")
    parts, whole = [], 0
    for engine, name in enumerate(run.engines):
        blocks = sizes.get(name) if isinstance(sizes, dict) else sizes
        steps = run.columns("steps", engine)
        if blocks and len(steps["step"]):
            whole += blocks
            used = blocks - steps["free_blocks"]
            parts.append(held(step_ends(steps), used))
    if not parts:
        return None
    summed = total(parts)
    return Steps(summed.times, summed.values / whole)


def tier_sizes(run: Run) -> dict[str, Steps]:
    """Return each tier's bytes over time, all engines."""
    return _by_tier(run, "memory", lambda rows: held(rows["time_ns"], rows["bytes"]))


def lent(run: Run) -> dict[str, Steps]:
    """Return bytes that donors offer, that consumers were granted, and that these use; without what never was."""
    rows = run.columns("leases")
    codes = {name: rows["event"] == code for code, name in enumerate(run.labels["event"])}
    found = {}
    for what, more, less in (("offered", "offered", "regained"), ("granted", "granted", "revoked")):
        if codes[more].any():
            sign = codes[more].astype(int) - codes[less]
            found[what] = of_changes(rows["time_ns"], sign * rows["bytes"])
    if codes["settled"].any():
        found["in use"] = total(_settled(rows, codes["settled"]))
    return found


def _settled(rows: Columns, settled: Any) -> list[Steps]:
    """Return, per pair of donor and consumer, the bytes in use: every such row says how many from then on."""
    pairs = np.stack((rows["donor"], rows["consumer"]))
    each = np.unique(pairs[:, settled], axis=1).T
    masks = [settled & (pairs[0] == donor) & (pairs[1] == consumer) for donor, consumer in each]
    return [held(rows["time_ns"][mask], rows["bytes"][mask]) for mask in masks]


def _by_tier(run: Run, table: str, make: Callable[[Columns], Steps]) -> dict[str, Steps]:
    parts: dict[str, list[Steps]] = {}
    for engine in range(len(run.engines)):
        columns = run.columns(table, engine)
        for code in np.unique(columns["tier"]).tolist():
            mine = columns["tier"] == code
            rows = {name: column[mine] for name, column in columns.items()}
            parts.setdefault(run.labels["tier"][code], []).append(make(rows))
    return {tier: total(some) for tier, some in parts.items()}


def _at_ends(steps: Columns, name: str) -> Steps:
    return held(step_ends(steps), steps[name])


# --- charts ------------------------------------------------------------------------------------------------


def _lines(
    name: str,
    title: str,
    axis: str,
    make: Callable[[Run], Steps | None],
    fold: Fold,
    systems: Systems,
    end: float,
) -> Figure | None:
    edges = edges_of(end)
    made = [(label, run, make(run)) for label, run in systems]
    parts = [
        stepped(label, run, edges, fold(steps, edges))
        for label, run, steps in made
        if steps is not None and len(steps.times)
    ]
    if not parts or not any(value for part in parts for value in part["value"]):
        return None
    names = [label for label, _ in systems]
    chart = _stepped(axis, color(names), tips(system="system", t="from (s)", value=axis), share=name == "kv")
    text = TEXTS[name].format(bin=f"{edges[1]:,.3g} s")
    return Figure(name, title, text, chart, {"rows": stack(parts)}, tuple(names), window=end)


def _tiers(
    name: str, title: str, make: Callable[[Run], dict[str, Steps]], systems: Systems, end: float
) -> Figure | None:
    """Return a line per system and tier, the tiers told apart by their dashes."""
    edges = edges_of(end)
    parts = []
    for label, run in systems:
        for tier, steps in make(run).items():
            part = stepped(label, run, edges, peaks(steps, edges) / GIB)
            parts.append({**part, "tier": [tier] * len(part["t"])})
    if not any(value for part in parts for value in part["value"]):
        return None
    names = [label for label, _ in systems]
    told = tips(system="system", tier="tier" if name != "leases" else "what", t="from (s)", value="GiB")
    chart = _stepped("GiB", color(names), told, dashes=sorted({t for part in parts for t in part["tier"]}))
    text = f"{TEXTS[name].format(bin=f'{edges[1]:,.3g} s')} {_dash_words(parts)}"
    return Figure(name, title, text.strip(), chart, {"rows": stack(parts)}, tuple(names), window=end)


DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
DASH_WORDS = ("solid", "dashed", "dotted", "dash-dotted")


def _dash_words(parts: Sequence[dict[str, list[Any]]]) -> str:
    tiers = sorted({tier for part in parts for tier in part["tier"]})
    words = [f"{tier} {word}" for tier, word in zip(tiers, DASH_WORDS, strict=False)]
    return f"Lines: {', '.join(words)}." if len(tiers) > 1 else f"All of it: {tiers[0]}."


def _stepped(axis: str, hue: Any, told: list[Any], share: bool = False, dashes: Sequence[str] = ()) -> Any:
    import altair as alt

    y = alt.Y("value:Q", title=axis, axis=alt.Axis(format="%") if share else alt.Axis())
    line = alt.Chart(data(), height=180).mark_line(strokeWidth=1.6, interpolate="step-after", clip=True)
    chart = line.encode(x=time_axis(), y=y, color=hue, tooltip=told)
    if len(dashes) > 1:
        drawn = [list(DASHES[i % len(DASHES)]) for i in range(len(dashes))]
        scale = alt.Scale(domain=list(dashes), range=drawn)
        chart = chart.encode(strokeDash=alt.StrokeDash("tier:N", title=None, scale=scale))
    return chart
