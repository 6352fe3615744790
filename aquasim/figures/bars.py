"""What happened to each request and on each engine, as bars in time: the numbers behind the Gantt charts."""

from typing import NamedTuple

import numpy as np

from aquasim.figures.theme import KINDS
from aquasim.records.run import Run
from aquasim.records.stats import Ints
from aquasim.records.tokens import step_ends

CODES = {kind: code for code, kind in enumerate(KINDS)}
ALIVE = CODES["waiting or paged out"]
"""From arrival to end, drawn behind everything else."""
MOVED = {"out": "page out", "in": "page in", "migrate": "between tiers"}


class Bars(NamedTuple):
    """Bars: which row, from when to when (nanoseconds), which of `KINDS`, and an amount for the tooltip."""

    row: Ints
    start: Ints
    end: Ints
    kind: Ints
    amount: Ints

    @classmethod
    def join(cls, parts: "list[Bars]") -> "Bars":
        """Return all bars of `parts`."""
        empty = np.zeros(0, np.int64)
        return (
            cls(*(np.concatenate([empty, *columns]) for columns in zip(*parts, strict=True)))
            if parts
            else NONE
        )

    def take(self, rows: np.ndarray) -> "Bars":
        """Return some of the bars, by a mask or by indices."""
        return Bars(*(column[rows] for column in self))

    def within(self, start: int, end: int) -> "Bars":
        """Return the bars that reach into a window."""
        return self.take((self.start < end) & (self.end > start))


NONE = Bars(*(np.zeros(0, np.int64) for _ in range(5)))


def _bars(row: Ints, start: Ints, end: Ints, kind: "int | Ints", amount: Ints) -> Bars:
    codes = np.full(len(row), kind) if isinstance(kind, int) else kind
    return Bars(row, start, end, codes, amount)


def request_bars(run: Run) -> Bars:
    """Return every stay, prefill chunk and move of every request; `row` is its place by arrival, from 1."""
    parts, first = [], 1
    for engine in range(len(run.engines)):
        rows = run.columns("requests", engine)
        order = np.argsort(rows["request"], kind="stable")
        ids = rows["request"][order]
        rank = np.empty(len(ids), np.int64)
        rank[np.lexsort((rows["request"], rows["arrival_ns"]))] = np.arange(len(ids)) + first
        place = rank[order]
        first += len(ids)
        if not len(ids):
            continue
        parts.append(_bars(rank, rows["arrival_ns"], rows["finished_ns"], ALIVE, rows["output_tokens"]))
        for bars in (_stays(run, engine), _chunks(run, engine), _moves(run, engine)):
            near = np.minimum(np.searchsorted(ids, bars.row), len(ids) - 1)
            known = ids[near] == bars.row
            parts.append(bars._replace(row=place[near]).take(known))
    return Bars.join(parts)


def _stays(run: Run, engine: int) -> Bars:
    """Return spans, `row` the request; lane 1 is the host's cores."""
    steps, spans = run.columns("steps", engine), run.columns("spans", engine)
    if not len(steps["step"]) or not len(spans["request"]):
        return NONE
    first, last, kept = span_steps(steps["step"], spans["first_step"], spans["last_step"])
    ends = step_ends(steps)
    done = np.concatenate(([0], np.cumsum(np.where(steps["batch"] > 0, steps["iterations"], 0))))
    kind = np.where(spans["lane"] == 1, CODES["decode on the host"], CODES["decode"])
    tokens = done[last + 1] - done[first]
    return Bars(spans["request"], steps["start_ns"][first], ends[last], kind, tokens).take(kept)


def span_steps(numbers: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints, np.ndarray]:
    """Return the rows of the steps a span starts and ends in, and which spans have any; -1 stands for the end."""
    top = len(numbers) - 1
    begin = np.searchsorted(numbers, first)
    end = np.searchsorted(numbers, last, "right") - 1
    end[last < 0] = top
    kept = begin <= end
    return np.clip(begin, 0, top), np.clip(end, 0, top), kept


def _chunks(run: Run, engine: int) -> Bars:
    steps, chunks = run.columns("steps", engine), run.columns("chunks", engine)
    if not len(steps["step"]) or not len(chunks["step"]):
        return NONE
    place = np.minimum(np.searchsorted(steps["step"], chunks["step"]), len(steps["step"]) - 1)
    known = steps["step"][place] == chunks["step"]
    start, end = steps["start_ns"][place], step_ends(steps)[place]
    return _bars(chunks["request"], start, end, CODES["prefill"], chunks["tokens"]).take(known)


def _moves(run: Run, engine: int) -> Bars:
    moves, rows = run.columns("moves", engine), run.columns("transfers", engine)
    if not len(moves["request"]):
        return NONE
    order = np.argsort(rows["transfer"])
    place = order[np.searchsorted(rows["transfer"], moves["transfer"], sorter=order)]
    codes = np.array([CODES[MOVED[name]] for name in run.labels["kind"]])
    return _bars(
        moves["request"],
        rows["start_ns"][place],
        rows["end_ns"][place],
        codes[rows["kind"][place]],
        moves["blocks"],
    )


def lane_bars(run: Run) -> tuple[list[str], Bars]:
    """Return the lanes of a run's engines (prefills, decodes, the host's cores, transfers by tier) and their bars."""
    lanes: list[str] = []
    parts = []
    for engine, name in enumerate(run.engines):
        ahead = f"{name}: " if len(run.engines) > 1 else ""
        for lane, bars in _engine_lanes(run, engine):
            if len(bars.row):
                parts.append(bars._replace(row=np.full(len(bars.row), len(lanes))))
                lanes.append(ahead + lane)
    return lanes, Bars.join(parts)


def _engine_lanes(run: Run, engine: int) -> list[tuple[str, Bars]]:
    steps = run.columns("steps", engine)
    zeros, ends = np.zeros(len(steps["step"]), np.int64), step_ends(steps)
    prefill = _bars(zeros, steps["start_ns"], ends, CODES["prefill"], steps["prefill_tokens"]).take(
        steps["prefills"] > 0
    )
    decode = _bars(zeros, steps["start_ns"], ends, CODES["decode"], steps["batch"]).take(steps["batch"] > 0)
    found = [("iterations with prefill", prefill), ("iterations with decodes", decode)]
    stays = _stays(run, engine)
    host = stays.take(stays.kind == CODES["decode on the host"])
    found.append(("attention on the host's cores", host))
    rows = run.columns("transfers", engine)
    for tier, place in enumerate(run.labels["tier"]):
        for kind, name in enumerate(run.labels["kind"]):
            mine = (rows["kind"] == kind) & (rows["tier"] == tier)
            starts, stops, blocks = (rows[c][mine] for c in ("start_ns", "end_ns", "blocks"))
            what = {"out": f"page out to {place}", "in": f"page in from {place}"}.get(
                name, f"move on from {place}"
            )
            found.append((what, _bars(blocks * 0, starts, stops, CODES[MOVED[name]], blocks)))
    return found


def merge(bars: Bars, gap: int) -> Bars:
    """Join bars of one row and kind that lie closer than `gap` nanoseconds; counts become the number joined."""
    if not len(bars.row):
        return bars
    order = np.lexsort((bars.start, bars.kind, bars.row))
    row, start, end, kind, _ = (column[order] for column in bars)
    group = row * len(CODES) + kind
    base = (group - group[0]) * (int(end.max()) + gap + 1)
    reach = np.maximum.accumulate(end + base)
    new = np.ones(len(row), np.bool_)
    new[1:] = (group[1:] != group[:-1]) | (start[1:] + base[1:] > reach[:-1] + gap)
    heads = np.flatnonzero(new)
    counts = np.diff(heads, append=len(row))
    return Bars(row[heads], start[heads], np.maximum.reduceat(end, heads), kind[heads], counts)
