"""Lanes beside time slices: iterations are those of chunked prefill, and the host does what the GPU's work hides.

Who is paged to the host decodes there meanwhile, by NEO's rules (`aquasim.core.lanes`); a newcomer for whom HBM has
no room may be computed straight into the host's memory instead of displacing somebody.
"""

from operator import attrgetter
from typing import TYPE_CHECKING

from aquasim.core import chunked, hosts
from aquasim.core.chunked import Chunks
from aquasim.core.hosts import HOST
from aquasim.core.request import Request
from aquasim.core.sides import Side, spare_prompts

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

_ARRIVAL = attrgetter("arrival", "id")


def build(s: "Scheduler") -> tuple[Chunks, bool, int]:
    """Decide one iteration and leave the host's part in `s.lanes`.

    Returns:
        Prompt chunks as (request, tokens), whether the batch decodes, and how often the step may repeat.
    """
    s.lanes = None
    chunks, decode, repeat = chunked.build(s)
    if s.waiting:  # what is predicted for a newcomer changes with every token of the others
        repeat = 1
    if HOST not in s.pager.tiers:
        return chunks, decode, repeat
    prompts = _prompts(s, chunks) if s.waiting else []
    candidates = _candidates(s)
    if not (prompts or candidates):
        return chunks, decode, repeat
    sides, count = _plan(s, chunks, decode, prompts, candidates)
    for request in prompts[:count]:
        hosts.stage(s, request)
        chunks.append((request, request.total))
    if candidates:
        s.policy.hosted(sum([len(side.host) for side in sides]), len(candidates))
    hosts.commit(s, sides, tuple([request.id for request in prompts[:count]]))
    return chunks, decode, 1


def _prompts(s: "Scheduler", chunks: Chunks) -> list[Request]:
    """Return waiting prompts, in order, that could be computed straight into the host's memory now."""
    budget = s.limits.max_num_batched_tokens - s.batch.count - sum([count for _, count in chunks])
    seats = s.limits.max_num_seqs - len(s.running) - s.pager.arrivals
    room, total = s.pool.capacity, 0  # of the layer that prompts are staged in
    found: list[Request] = []
    for request in s.waiting:
        total += s.blocks_for(request.total)
        fits = not found and s.admissible(request, [])
        if seats <= len(found) or request.total > budget or total > room or fits:
            break
        if total > hosts.host_room(s, s.pool.capacity) or not s.policy.stages(request, s):
            break
        if not s.pager.spare(HOST, total):
            break
        found.append(request)
        budget -= request.total
    return found


def _candidates(s: "Scheduler") -> list[Request]:
    """Return who may decode on the host: complete copies there that are not about to return.

    First come, first served: what grows must end and give its memory back before all of it is taken.
    """
    coming = dict.fromkeys(s.inbound)
    found = [r for r in s.paged.values() if r.copy_tier == HOST and r not in coming]
    return sorted(found, key=_ARRIVAL)


def _make_room(s: "Scheduler", candidates: list[Request], taken: int) -> None:
    """Find blocks for the host's decodes to grow by, beside `taken`, among copies of who runs.

    A host that has none for its oldest request has its newest start over: else nobody there would ever end.
    """
    pool, needed = s.pager.tiers[HOST], 0
    for request in candidates:
        needed += s.blocks_for(request.total) - len(request.copy)
    if needed == 0 or s.pager.spare(HOST, taken + needed):
        return
    while len(candidates) > 1 and pool.free <= taken:
        newest = candidates.pop()
        s.preempted.append(newest.id)
        s.pager.drop_copy(newest)
        s.forget(newest)


def _plan(
    s: "Scheduler", chunks: Chunks, decode: bool, prompts: list[Request], candidates: list[Request]
) -> tuple[list[Side], int]:
    """NEO's greedy choice: both sub-batches if that serves more per time of the GPU, else none.

    Returns:
        Sub-batches, and how many of the prompts to start: as many as are needed to hide the host's work, or one.
    """
    tables, flat = s.policy.predictor, s.policy.lanes.flat if s.policy.lanes else 0
    assert tables is not None, "this policy needs a predictor"
    first, second, alone = Side(tables), Side(tables), Side(tables)
    for side in (first, alone):
        for request, count in chunks:
            side.chunk(request, count)
        if decode:
            side.decode(s.batch.count, s.batch.context + s.batch.count)
        for request in prompts:
            side.prefill(request)
    pair, started, left = [first, second], len(prompts), len(prompts)
    while left and alone.width - alone.prefills[-1].total >= flat:
        alone.drop()
        left -= 1
    slots = min(
        s.limits.max_num_batched_tokens - first.width,
        s.limits.max_num_seqs - s.batch.count - len(chunks) - started,
    )
    taken = sum([s.blocks_for(request.total) for request in prompts])
    _make_room(s, candidates, taken)
    hosts.hide(s, pair, slots, candidates, s.pager.tiers[HOST].free - taken)
    if not second.host:
        return [], left
    started -= spare_prompts(pair, started, flat)
    served, time = first.sequences + second.sequences, first.gpu + second.gpu
    return (pair, started) if served * alone.gpu > alone.sequences * time else ([], left)
