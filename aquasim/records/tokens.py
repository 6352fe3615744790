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

_FOREVER = np.iinfo(np.int64).max
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


class _Requests(NamedTuple):
    """The recorded requests by id. Others refer to them by their place here, their owner."""

    ids: Ints
    prompt: Ints
    cached: Ints
    until: Ints
    """When an aborted request was: what ends later gave it nothing. `_FOREVER` for the others."""


class _Spans(NamedTuple):
    """Spans as inclusive ranges of decode rows, none empty."""

    owner: Ints
    step: Ints
    first: Ints
    last: Ints


class _Chunks(NamedTuple):
    owner: Ints
    step: Ints
    tokens: Ints
    past: Ints
    """Its end, counted in tokens from the end of the prompt."""
    end_ns: Ints


class _Events(NamedTuple):
    """Spans, and chunks that may have made a token, by request and then in time."""

    head: Mask
    """The first event of its request."""
    owner: Ints
    chunk: Mask
    past: Ints
    """As in `_Chunks`, less the tokens decoded before; for a completing chunk, how many completed before it."""
    first_ns: Ints
    """When its first token came."""
    last_ns: Ints


def account(requests: Columns, steps: Columns, spans: Columns, chunks: Columns) -> Account:
    """Account for the tokens of one engine's recorded requests.

    Requests still alive when the run was stopped have no row in `requests` and are left out. A step that
    ends after a request was aborted gave it nothing.
    """
    rows, known = _rows(steps), _requests(requests)
    decoded, prefilled = _spans(spans, rows, known), _chunks(chunks, rows, known)
    events = _events(prefilled, decoded, rows)
    completing = _completing(events)
    single = _single_gaps(events, ~events.chunk | completing)
    gaps = Progressions.join([*_row_gaps(rows, decoded), single])
    return Account(gaps, _recomputed(known, prefilled, events.owner[completing]))


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


def step_ends(steps: Columns) -> Ints:
    """Return when each row of the table of steps ended, in nanoseconds."""
    return steps["start_ns"] + durations(steps["first_ns"], steps["growth_ns"], steps["iterations"])


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


def _requests(requests: Columns) -> _Requests:
    ids, prompt, cached, outcome, end = gather(
        requests, ("request", "prompt_tokens", "cached_tokens", "outcome", "finished_ns")
    )
    until = np.where(outcome == Outcome.ABORTED, end, _FOREVER)
    order = np.argsort(ids, kind="stable")
    return _Requests(ids[order], prompt[order], cached[order], until[order])


def _spans(spans: Columns, rows: _Rows, known: _Requests) -> _Spans:
    """Turn spans into ranges of decode rows. `last_step` -1 stands for the end of an aborted request."""
    request, first_step, last_step = gather(spans, ("request", "first_step", "last_step"))
    owner, kept = _lookup(known.ids, request)
    first = rows.passed[_position(rows.steps, first_step)]
    last = rows.passed[_position(rows.steps, last_step + 1)] - 1
    last[last_step < 0] = len(rows.end) - 1
    if kept.any():
        until = known.until[owner]
        cut = np.flatnonzero(until < _FOREVER)
        last[cut] = np.minimum(last[cut], np.searchsorted(rows.end, until[cut], "right") - 1)
    kept &= first <= last
    return _Spans(*(column[kept] for column in (owner, first_step, first, last)))


def _chunks(chunks: Columns, rows: _Rows, known: _Requests) -> _Chunks:
    request, step, start, tokens = gather(chunks, ("request", "step", "start_token", "tokens"))
    owner, kept = _lookup(known.ids, request)
    row, recorded = _lookup(rows.steps, step)
    kept &= recorded
    if not kept.any():
        return _Chunks(*(np.zeros(0, np.int64) for _ in _Chunks._fields))
    end = rows.ends[row]
    kept &= end <= known.until[owner]
    found = _Chunks(owner, step, tokens, start + tokens - known.prompt[owner], end)
    return found if kept.all() else _Chunks(*(column[kept] for column in found))


def _events(chunks: _Chunks, spans: _Spans, rows: _Rows) -> _Events:
    """Bring chunks that reach the end of their prompt and spans together; a request has one event per step."""
    reach = np.flatnonzero(chunks.past >= 0)
    owner = np.concatenate((chunks.owner[reach], spans.owner))
    order = _order(owner, np.concatenate((chunks.step[reach], spans.step)))
    owner = owner[order]
    head = np.ones(len(order), np.bool_)
    head[1:] = owner[1:] != owner[:-1]
    passed = np.concatenate(([0], np.cumsum(rows.iterations)))
    decoded = np.concatenate((np.zeros_like(reach), passed[spans.last + 1] - passed[spans.first]))[order]
    before = np.cumsum(decoded) - decoded
    before -= before[head][np.cumsum(head) - 1]
    end = chunks.end_ns[reach]
    return _Events(
        head=head,
        owner=owner,
        chunk=order < len(reach),
        past=np.concatenate((chunks.past[reach], np.zeros_like(spans.owner)))[order] - before,
        first_ns=np.concatenate((end, rows.first_end[spans.first]))[order],
        last_ns=np.concatenate((end, rows.end[spans.last]))[order],
    )


def _order(owner: Ints, step: Ints) -> Ints:
    """Return the order by owner, then step: one sort of one key if that fits 64 bits."""
    if not len(owner):
        return np.zeros(0, np.int64)
    width = int(step.max()) + 1
    if (int(owner.max()) + 1) * width < _FOREVER:
        return np.argsort(owner * width + step)
    return np.lexsort((step, owner))


def _completing(events: _Events) -> Mask:
    """Say which events are chunks that completed all known tokens of their request, and so made one.

    Such a chunk ends at the prompt plus all tokens generated: those decoded, and one per completing chunk
    before. So their number before an event is one more than the largest `past` among the earlier chunks.
    """
    reached = np.where(events.chunk, np.maximum(events.past + 1, 0), 0)
    if not len(reached):
        return events.chunk
    base = events.owner * (int(reached.max()) + 1)
    before = np.concatenate(([0], np.maximum.accumulate(reached + base)[:-1])) - base
    before[events.head] = 0
    completing: Mask = events.chunk & (events.past == before)
    return completing


def _recomputed(known: _Requests, chunks: _Chunks, completed: Ints) -> int:
    """Return the chunk tokens beyond those that were new.

    Args:
        known: the requests.
        chunks: all chunks.
        completed: owners of the completing chunks, once for each.

    New are, of a request with tokens, its prompt without what was cached, and one token (the newest) per
    completing chunk after the first; of a request without any, what its furthest chunk reached.
    """
    began = np.zeros(len(known.ids), np.bool_)
    began[completed] = True
    new = int((known.prompt - known.cached)[began].sum()) + len(completed) - int(began.sum())
    early = np.flatnonzero(~began[chunks.owner])
    reached = np.full(len(known.ids), -1)
    np.maximum.at(reached, chunks.owner[early], chunks.past[early] + known.prompt[chunks.owner[early]])
    new += int((reached - known.cached)[reached >= 0].sum())
    return int(chunks.tokens.sum()) - new


def _single_gaps(events: _Events, producing: Mask) -> Progressions:
    """Gaps before the first tokens of spans and before tokens of completing chunks, each of weight 1."""
    if producing.all():
        owner, first, last = events.owner, events.first_ns, events.last_ns
    else:
        owner, first, last = (column[producing] for column in (events.owner, events.first_ns, events.last_ns))
    gap = (first[1:] - last[:-1])[owner[1:] == owner[:-1]]
    return Progressions.of_values(gap, np.ones_like(gap))


def _row_gaps(rows: _Rows, spans: _Spans) -> list[Progressions]:
    """Gaps within rows, and from one row to the next for the requests that stayed."""
    count = len(rows.end)
    joins = np.bincount(spans.first, minlength=count)
    active = np.cumsum(joins - np.bincount(spans.last + 1, minlength=count + 1)[:count])
    within = Progressions.of_runs(rows.first + rows.growth, rows.growth, rows.iterations - 1, active)
    between = Progressions.of_values(rows.first_end[1:] - rows.end[:-1], (active - joins)[1:])
    return [within, between]
