"""Counters of one engine: how full its memory was, and how many requests ran, waited or were paged out."""

from collections.abc import Iterator

from aquasim.records.perfetto.kinds import Part, block_bytes
from aquasim.records.perfetto.tracks import Event, counter, plain, rows
from aquasim.records.perfetto.write import shown
from aquasim.records.run import Run
from aquasim.records.tokens import step_ends

GIB = 2**30


def counters(part: Part, pid: int) -> Iterator[Event]:
    """Give every counter's values, each only when it changes."""
    last: dict[str, float] = {}
    for made in (_steps(part), _paged(part), _sizes(part), _lent(part)):
        for name, time, value in made:
            if last.get(name) != value:
                last[name] = value
                yield counter(pid, plain(name), time, value)


Values = Iterator[tuple[str, int, float]]
"""Counter, nanosecond, value from then on."""


def _steps(part: Part) -> Values:
    """Say how things stood: what ran from a step's start, the others at its end."""
    steps = part.table("steps")
    sizes = part.run.meta.get("blocks")
    blocks = sizes.get(part.run.engines[part.engine]) if isinstance(sizes, dict) else sizes
    size = block_bytes(part.run, part.engine)
    picked = shown("steps", steps, part.window)
    for row in rows({**steps, "end_ns": step_ends(steps)}, picked):
        end = row["end_ns"]
        yield "running", row["start_ns"], row["batch"] + row["prefills"]
        yield "free KV blocks", end, row["free_blocks"]
        yield "waiting", end, row["waiting"]
        yield "paged", end, row["paged"]
        if blocks is not None and size is not None:
            yield "KV in hbm, GiB", end, (blocks - row["free_blocks"]) * size / GIB


def _inside(part: Part, time: int) -> bool:
    return part.window.start <= time < part.window.end


def _paged(part: Part) -> Values:
    """Give the KV cache of preempted requests by the tier that holds it."""
    from aquasim.figures.residence import paged_out

    for tier, steps in paged_out(_alone(part)).items():
        for time, value in zip(steps.times, steps.values, strict=True):
            nanoseconds = round(float(time) * 1e9)
            if _inside(part, nanoseconds):
                yield f"KV in {tier}, GiB", nanoseconds, max(0.0, float(value)) / GIB


def _alone(part: Part) -> Run:
    """Return this engine as a run of its own, as far as memory goes."""
    tables = {name: part.table(name) for name in ("requests", "moves", "transfers", "preemptions")}
    tables = {name: {**table, "engine": table["engine"] * 0} for name, table in tables.items()}
    labels = {**part.run.labels, "engine": [part.run.engines[part.engine]]}
    return Run.of_columns(tables, labels, {"block_bytes": block_bytes(part.run, part.engine)}, "")


def _sizes(part: Part) -> Values:
    table = part.table("memory")
    for row in rows(table, part.window.rows(table["time_ns"], table["time_ns"])):
        yield f"size of {part.run.labels['tier'][row['tier']]}, GiB", row["time_ns"], row["bytes"] / GIB


SIGNS = {
    "offered": ("offered", 1),
    "regained": ("offered", -1),
    "granted": ("granted", 1),
    "revoked": ("granted", -1),
}
"""What each event of a lease adds to or takes from; `settled` says what is in use from then on."""


def _lent(part: Part) -> Values:
    table, names = part.table("leases"), part.run.labels["event"]
    sums = {"offered": 0, "granted": 0}
    used: dict[tuple[int, int], int] = {}
    for row in rows(table, part.window.rows(table["time_ns"], table["time_ns"])):
        event = names[row["event"]]
        if event in SIGNS:
            what, sign = SIGNS[event]
            sums[what] += sign * row["bytes"]
            yield f"memory {what}, GiB", row["time_ns"], sums[what] / GIB
        elif event == "settled":
            used[row["donor"], row["consumer"]] = row["bytes"]
            yield "lent memory in use, GiB", row["time_ns"], sum(used.values()) / GIB
