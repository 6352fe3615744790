"""When each token came: the gaps between a request's tokens and the work done twice, from the tables alone.

A request gets a token at the end of every iteration it decodes in, and at the end of the step with the chunk
that completes its known tokens (its prompt at first, later its prompt and what it had generated). Most tokens
follow the one before by one iteration of the same row, so whole rows are counted at once; only a request's
first token in a span, and the one of a completing chunk, are looked at one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aquasim.records.stats import Ints, Progressions
from aquasim.records.tables import Outcome

Columns = dict[str, Ints]
Mask = NDArray[np.bool_]

_BLOCK = 8192
"""Rows copied at a time: all their columns stay in the processor's cache."""


class Account(NamedTuple):
    """What one engine's tables say about tokens."""

    gaps: Progressions
    """Nanoseconds between the ends of the iterations that made consecutive tokens of one request."""
    recomputed: int
    """Tokens computed in chunks although the same request had computed them before."""


class _Rows(NamedTuple):
    """Steps of an engine: all their numbers and ends, and more about those with a decode batch."""

    steps: Ints
    ends: Ints
    passed: Ints
    """Steps with a batch before each position in `steps`, and at its end. Below: steps with a batch only."""
    first_end: Ints
    """End of the first iteration of each step with a batch."""
    end: Ints
    first: Ints
    growth: Ints
    iterations: Ints


class _Spans(NamedTuple):
    """Spans as inclusive ranges of decode rows, none empty."""

    request: Ints
    first_step: Ints
    first: Ints
    last: Ints


class _Chunks(NamedTuple):
    request: Ints
    step: Ints
    start: Ints
    tokens: Ints
    end_ns: Ints


class _Events(NamedTuple):
    """Chunks and spans, by request and then in time. A chunk has tokens, a span has decoded some."""

    head: Mask
    """The first event of its request."""
    segment: Ints
    """Index of the request, counted from 0."""
    prompt: Ints
    chunk: Mask
    start: Ints
    tokens: Ints
    before: Ints
    """Tokens decoded in earlier spans."""
    first_ns: Ints
    """When its first token came, if it made one."""
    last_ns: Ints


def account(requests: Columns, steps: Columns, spans: Columns, chunks: Columns) -> Account:
    """Account for the tokens of one engine's recorded requests.

    Requests still alive when the run was stopped have no row in `requests` and are left out. A step that
    ends after a request was aborted gave it nothing.
    """
    rows = _rows(steps)
    known = np.argsort(requests["request"], kind="stable")
    ids = requests["request"][known]
    prompts = requests["prompt_tokens"][known]
    limits = np.where(requests["outcome"] == Outcome.ABORTED, requests["finished_ns"], np.iinfo(np.int64).max)
    limits = limits[known]
    decoded = _spans(spans, rows, ids, limits)
    events = _events(_chunks(chunks, rows, ids, limits), decoded, rows, ids, prompts)
    made = _made_before(events)
    completing = events.chunk & (events.start + events.tokens == events.prompt + made)
    single = _single_gaps(events, ~events.chunk | completing)
    gaps = Progressions.join([*_row_gaps(rows, decoded), single])
    return Account(gaps, _recomputed(events, made))


def gather(columns: Columns, names: Sequence[str]) -> list[Ints]:
    """Return contiguous copies of columns, made block by block: rows lie together where they were written."""
    if all(columns[name].flags.c_contiguous for name in names):
        return [columns[name] for name in names]
    size = len(columns[names[0]])
    found = [np.empty(size, np.int64) for _ in names]
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        for column, name in zip(found, names, strict=True):
            column[rows] = columns[name][rows]
    return found


def durations(first: Ints, growth: Ints, iterations: Ints) -> Ints:
    """Return how long steps lasted: the sum of `first + growth * j` over their iterations, in nanoseconds."""
    return iterations * first + growth * (iterations * (iterations - 1) // 2)


def _rows(steps: Columns) -> _Rows:
    names = ("step", "start_ns", "first_ns", "growth_ns", "iterations", "batch")
    number, start, first, growth, iterations, batch = gather(steps, names)
    decodes = batch > 0
    ends = start + durations(first, growth, iterations)
    rows = np.flatnonzero(decodes)
    first = first[rows]
    return _Rows(
        steps=number,
        ends=ends,
        passed=np.concatenate(([0], np.cumsum(decodes))),
        first_end=start[rows] + first,
        end=ends[rows],
        first=first,
        growth=growth[rows],
        iterations=iterations[rows],
    )


def _position(ordered: Ints, values: Ints) -> Ints:
    """Return how many of `ordered` (rising, distinct) are less than each value."""
    if len(ordered) and ordered[-1] - ordered[0] == len(ordered) - 1:
        place: Ints = np.clip(values - ordered[0], 0, len(ordered))
        return place
    return np.searchsorted(ordered, values)


def _lookup(ordered: Ints, values: Ints) -> tuple[Ints, Mask]:
    """Return where each value stands in `ordered`, and whether it is there."""
    if not len(ordered):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    place = np.minimum(_position(ordered, values), len(ordered) - 1)
    return place, ordered[place] == values


def _spans(spans: Columns, rows: _Rows, ids: Ints, limits: Ints) -> _Spans:
    """Turn spans into ranges of decode rows. `last_step` -1 stands for the end of an aborted request."""
    request, first_step, last_step = gather(spans, ("request", "first_step", "last_step"))
    place, found = _lookup(ids, request)
    first = rows.passed[_position(rows.steps, first_step)]
    last = rows.passed[_position(rows.steps, last_step + 1)] - 1
    last[last_step < 0] = len(rows.end) - 1
    if len(limits):
        limit = limits[place]
        cut = np.flatnonzero(limit < np.iinfo(np.int64).max)
        last[cut] = np.minimum(last[cut], np.searchsorted(rows.end, limit[cut], "right") - 1)
    kept = found & (first <= last)
    return _Spans(request[kept], first_step[kept], first[kept], last[kept])


def _chunks(chunks: Columns, rows: _Rows, ids: Ints, limits: Ints) -> _Chunks:
    request, step, start, tokens = gather(chunks, ("request", "step", "start_token", "tokens"))
    place, kept = _lookup(ids, request)
    row, recorded = _lookup(rows.steps, step)
    kept &= recorded
    if not kept.any():
        return _Chunks(*(np.zeros(0, np.int64) for _ in _Chunks._fields))
    end = rows.ends[row]
    kept &= end <= limits[place]
    return _Chunks(request[kept], step[kept], start[kept], tokens[kept], end[kept])


def _events(chunks: _Chunks, spans: _Spans, rows: _Rows, ids: Ints, prompts: Ints) -> _Events:
    """Bring chunks and spans together, sorted by request and step (a request has one event per step)."""
    request = np.concatenate((chunks.request, spans.request))
    step = np.concatenate((chunks.step, spans.first_step))
    order = _order(request, step)
    request = request[order]
    head = np.ones(len(order), np.bool_)
    head[1:] = request[1:] != request[:-1]
    segment = np.cumsum(head) - 1
    none = np.zeros(len(spans.request), np.int64)
    passed = np.concatenate(([0], np.cumsum(rows.iterations)))
    made = passed[spans.last + 1] - passed[spans.first]
    decoded = np.concatenate((np.zeros_like(chunks.request), made))[order]
    before = np.cumsum(decoded) - decoded
    before -= before[head][segment] if len(order) else before
    return _Events(
        head=head,
        segment=segment,
        prompt=prompts[_lookup(ids, request[head])[0]][segment],
        chunk=order < len(chunks.request),
        start=np.concatenate((chunks.start, none))[order],
        tokens=np.concatenate((chunks.tokens, none))[order],
        before=before,
        first_ns=np.concatenate((chunks.end_ns, rows.first_end[spans.first]))[order],
        last_ns=np.concatenate((chunks.end_ns, rows.end[spans.last]))[order],
    )


def _order(request: Ints, step: Ints) -> Ints:
    """Return the order by request, then step: one sort of one key if that fits 64 bits."""
    if not len(request):
        return np.zeros(0, np.int64)
    width = int(step.max()) + 1
    if request.min() >= 0 and (int(request.max()) + 1) * width < 2**63:
        return np.argsort(request * width + step)
    return np.lexsort((step, request))


def _risen(events: _Events, values: Ints) -> Ints:
    """Return, per event, the largest of `values` (0 or more) among its request's events before it, else 0."""
    if not len(values):
        return values
    base = events.segment * (int(values.max()) + 1)
    risen = np.maximum.accumulate(values + base)
    before = np.concatenate(([0], risen[:-1])) - base
    before[events.head] = 0
    return before


def _made_before(events: _Events) -> Ints:
    """Return the tokens a request had generated before each of its events.

    The number of completing chunks so far follows from where chunks end: a chunk that ends at the prompt plus
    all generated tokens completes, and adds one.
    """
    past = events.start + events.tokens - events.prompt - events.before
    return events.before + _risen(events, np.where(events.chunk, np.maximum(past + 1, 0), 0))


def _recomputed(events: _Events, made: Ints) -> int:
    """Sum the part of each chunk that its request had computed (or found cached) before.

    With tokens generated, all but the newest had been; before the first token, up to the furthest chunk.
    """
    end = events.start + events.tokens
    reached = np.where(made > 0, events.prompt + made - 1, _risen(events, end))
    again = np.minimum(end, reached) - events.start
    return int(again[events.chunk & (again > 0)].sum())


def _single_gaps(events: _Events, producing: Mask) -> Progressions:
    """Gaps before the first tokens of spans and before tokens of completing chunks, each of weight 1."""
    segment = events.segment[producing]
    gap = events.first_ns[producing][1:] - events.last_ns[producing][:-1]
    gap = gap[segment[1:] == segment[:-1]]
    return Progressions.of_values(gap, np.ones_like(gap))


def _row_gaps(rows: _Rows, spans: _Spans) -> list[Progressions]:
    """Gaps within rows, and from one row to the next for the requests that stayed."""
    count = len(rows.end)
    joins = np.bincount(spans.first, minlength=count)
    active = np.cumsum(joins - np.bincount(spans.last + 1, minlength=count + 1)[:count])
    within = Progressions.of_runs(rows.first + rows.growth, rows.growth, rows.iterations - 1, active)
    between = Progressions.of_values(rows.first_end[1:] - rows.end[:-1], (active - joins)[1:])
    return [within, between]
