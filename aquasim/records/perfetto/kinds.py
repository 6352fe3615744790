"""Kinds of slices that requests go through: arrivals, preemptions, copies, prefill chunks, stays in the batch."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from aquasim.records.perfetto.flows import Flows
from aquasim.records.perfetto.write import Window, shown
from aquasim.records.run import Columns, Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import step_ends

MARK = 1000
"""Nanoseconds that a moment is drawn as: a slice can be clicked, and arrows can end in it."""
WORDS = {"out": "copy out to", "in": "copy in from", "migrate": "copy on from"}

Words = Callable[[dict[str, int]], tuple[str, dict[str, Any]]]
"""What a slice is called, and more about it, from its row."""


class Kind(NamedTuple):
    """Slices of one kind in order of start: the track's name and place, columns with `start_ns`, `end_ns`, words."""

    name: str
    order: int
    columns: Columns
    words: Words


class Part(NamedTuple):
    """An engine's run as far as it is shown."""

    run: Run
    engine: int
    window: Window
    flows: Flows

    def table(self, name: str) -> Columns:
        """Return a table of this engine."""
        return self.run.columns(name, self.engine)


def block_bytes(run: Run, engine: int) -> int | None:
    """Return the bytes of a KV block of an engine, where the run says so."""
    sizes = run.meta.get("block_bytes")
    found = sizes.get(run.engines[engine]) if isinstance(sizes, dict) else sizes
    return int(found) if found else None


def kinds(part: Part) -> Iterator[Kind]:
    """Give every kind; at one instant, a request goes through them in this order."""
    yield _arrivals(part)
    yield _preemptions(part)
    for kind in ("out", "migrate", "in"):
        for tier in range(len(part.run.labels["tier"])):
            yield _copies(part, part.run.labels["kind"].index(kind), tier)
    yield _chunks(part)
    yield from _stays(part)


# --- moments -----------------------------------------------------------------------------------------------


def _arrivals(part: Part) -> Kind:
    table = part.table("requests")
    return _moments(part, "arrivals", 5, table["arrival_ns"], table["request"], ("arrives", "arrive"))


def _preemptions(part: Part) -> Kind:
    table = part.table("preemptions")
    words = ("is preempted", "are preempted")
    return _moments(part, "preemptions", 4, table["time_ns"], table["request"], words)


def _moments(part: Part, name: str, order: int, times: Ints, requests: Ints, verb: tuple[str, str]) -> Kind:
    """Return what happens to requests at a time: one slice for all of one instant."""
    picked = part.window.rows(times, times)
    starts, first, slices, counts = np.unique(
        times[picked], return_index=True, return_inverse=True, return_counts=True
    )
    part.flows.add(slices, requests[picked], times[picked])
    ends = np.minimum(starts + MARK, np.append(starts[1:], 2**62))
    columns = {"start_ns": starts, "end_ns": ends, "requests": counts, "request": requests[picked][first]}

    def words(row: dict[str, int]) -> tuple[str, dict[str, Any]]:
        if row["requests"] > 1:
            return f"{row['requests']} requests {verb[1]}", {"requests": row["requests"]}
        return f"request {row['request']} {verb[0]}", {}

    return Kind(name, order, columns, words)


# --- copies ------------------------------------------------------------------------------------------------


def _copies(part: Part, kind: int, tier: int) -> Kind:
    table = part.table("transfers")
    picked = shown("transfers", table, part.window)
    picked = picked[(table["kind"][picked] == kind) & (table["tier"][picked] == tier)]
    columns = _sorted({name: column[picked] for name, column in table.items()})
    moves = part.table("moves")
    slices, mine = _find(columns["transfer"], moves["transfer"])
    part.flows.add(slices, moves["request"][mine], columns["start_ns"][slices])
    labels, size = part.run.labels, block_bytes(part.run, part.engine)
    name = f"{WORDS[labels['kind'][kind]]} {labels['tier'][tier]}"

    def words(row: dict[str, int]) -> tuple[str, dict[str, Any]]:
        about = {key: row[key] for key in ("transfer", "blocks", "requests")}
        about |= {} if size is None else {"bytes": row["blocks"] * size}
        return f"{name}: {row['blocks']} block{'s' * (row['blocks'] != 1)}", about

    return Kind(name, 10 + 3 * tier + kind, columns, words)


def _find(names: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Return where in `names` each of `wanted` is, of those that are, and which those are."""
    order = np.argsort(names, kind="stable")
    place = np.minimum(np.searchsorted(names, wanted, sorter=order), len(names) - 1)
    if not len(names):
        return wanted[:0], wanted[:0]
    mine = np.flatnonzero(names[order[place]] == wanted)
    return order[place[mine]], mine


def _sorted(columns: Columns) -> Columns:
    order = np.lexsort((columns["end_ns"], columns["start_ns"]))
    return {name: column[order] for name, column in columns.items()}


# --- computing ---------------------------------------------------------------------------------------------


def _chunks(part: Part) -> Kind:
    steps, chunks = part.table("steps"), part.table("chunks")
    place, mine = _find(steps["step"], chunks["step"])
    times = {"start_ns": steps["start_ns"][place], "end_ns": step_ends(steps)[place]}
    columns = _within(part, {**{name: column[mine] for name, column in chunks.items()}, **times})
    part.flows.add(np.arange(len(columns["step"])), columns["request"], columns["start_ns"])

    def words(row: dict[str, int]) -> tuple[str, dict[str, Any]]:
        about = {key: row[key] for key in ("step", "start_token", "tokens")}
        return f"request {row['request']}: prefill {row['tokens']}", about

    return Kind("prefill", 1, columns, words)


def _stays(part: Part) -> Iterator[Kind]:
    """Give stays in the decode batch, on the GPU and on the host's cores."""
    spans = _times(part)
    for lane, name in enumerate(("decode", "host decode")):
        columns = _within(part, {key: column[spans["lane"] == lane] for key, column in spans.items()})
        part.flows.add(np.arange(len(columns["request"])), columns["request"], columns["start_ns"])
        where = " on the host" if lane else ""

        def words(row: dict[str, int], where: str = where) -> tuple[str, dict[str, Any]]:
            about = {key: row[key] for key in ("first_step", "last_step")}
            return f"request {row['request']}: decode{where}", about

        yield Kind(name, 2 + lane, columns, words)


def _times(part: Part) -> Columns:
    """Return the spans that have a step, with their times: an aborted request's end when it does."""
    steps, spans, requests = part.table("steps"), part.table("spans"), part.table("requests")
    top = len(steps["step"]) - 1
    first = np.searchsorted(steps["step"], spans["first_step"])
    last = np.searchsorted(steps["step"], spans["last_step"], "right") - 1
    last[spans["last_step"] < 0] = top
    kept = np.flatnonzero(first <= last)
    found = {name: column[kept] for name, column in spans.items()}
    start, end = steps["start_ns"][first[kept]], step_ends(steps)[last[kept]]
    place, mine = _find(requests["request"], found["request"])
    end[mine] = np.minimum(end[mine], requests["finished_ns"][place])
    found |= {"start_ns": start, "end_ns": end}
    return {name: column[start <= end] for name, column in found.items()}


def _within(part: Part, columns: Columns) -> Columns:
    picked = part.window.rows(columns["start_ns"], columns["end_ns"])
    return _sorted({name: column[picked] for name, column in columns.items()})
