"""Steps with chunked prefill: decodes and prompt chunks share one token budget (vLLM V1's schedule)."""

from typing import TYPE_CHECKING

from aquasim.core import loras, slices
from aquasim.core.request import Request, State

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

Chunks = list[tuple[Request, int]]


def build(s: "Scheduler") -> tuple[Chunks, bool, int]:
    """Fill one iteration: running requests first, in order, then waiting ones.

    Returns:
        Prompt chunks as (request, tokens), whether the batch decodes, and how often the step may repeat.
    """
    if s.parked:
        s.unpark()
    if s.policy.sliced:
        slices.select(s)
        s.unpark()
    limits, batch = s.limits, s.batch
    budget = limits.max_num_batched_tokens
    threshold = limits.long_prefill_token_threshold or limits.max_model_len
    if len(s.running) + len(s.waiting) <= 1:  # nobody to be fair to
        threshold = limits.max_model_len
    if batch.count <= budget and (not s.prefilling or _one_last(s)):
        chunks, preempted = _run_together(s, budget, threshold)
    else:
        chunks, preempted = _run_in_order(s, budget, threshold)
    if not preempted:
        budget -= batch.count
        if chunks:
            budget -= sum([count for _, count in chunks])
        if s.waiting or s.paged:
            _admit(s, chunks, budget, threshold)
    decode = batch.count > 0
    alone = decode and not (chunks or preempted or s.parked or s.prefilling)
    return chunks, decode, repeats(s) if alone else 1


def repeats(s: "Scheduler") -> int:
    """How many identical decode iterations the state allows from here."""
    spare = s.pool.free - s.growth_reserve
    if spare < 0:
        return 1
    limit = s.limits.max_repeat
    if s.policy.sliced:
        limit = 1 if _unsettled(s) else min(limit, s.policy.horizon(s))
    if s.policy.ranked and (s.paged or s.waiting):  # the next decision holds as long as everyone has headroom
        spare -= s.batch.count
        if spare < 0:
            return 1
    return s.batch.room(spare, limit)


def _unsettled(s: "Scheduler") -> bool:
    """Say whether the next iteration's decision may differ though nobody comes or ends.

    Growth may take what a newcomer waits for, who then displaces others; whoever was displaced ranks anew; and which
    cached block growth takes depends on what transfers have freed by then.
    """
    caching = s.limits.prefix_caching
    if s.waiting or (caching and s.pager.moving):
        return True
    return s.policy.ranked and bool(s.paged) and (caching or bool(s.preempted))


def _one_last(s: "Scheduler") -> bool:
    """Say whether the only prefilling request is the last in the running order."""
    return len(s.prefilling) == 1 and next(reversed(s.running)) in s.prefilling


def _run_together(s: "Scheduler", budget: int, threshold: int) -> tuple[Chunks, bool]:
    """Run every decoder, and the prefilling request after them; make room first. The order does not matter."""
    chunks: Chunks = []
    growing = s.batch.growing()
    need = len(growing)
    for request in s.prefilling.values():
        count = min(request.total - request.computed, threshold, budget - s.batch.count)
        if count > 0:
            chunks.append((request, count))
            need += max(0, s.blocks_for(request.computed + count) - len(request.blocks))
    preempted = False
    if need > s.pool.free:
        if s.policy.in_order or (chunks and s.limits.prefix_caching and not s.policy.sliced):
            return _run_in_order(s, budget, threshold)  # who grows first decides which cached block goes
        chunks, preempted = make_room(s, chunks)
    for request, count in chunks:
        s.chunk(request, count)
    if growing:
        s.batch.grow_now(s.pool)
    return chunks, preempted


def make_room(s: "Scheduler", chunks: Chunks) -> tuple[Chunks, bool]:
    """Preempt from the end of the running order until the blocks that this iteration needs are there.

    Where page-outs are awaited, the blocks come later: what lacks one sits this iteration out.
    """
    preempted = False
    while _need(s, chunks) > s.pool.free + s.pager.leaving:
        victim = s.policy.victim(s)
        s.preempt(victim)
        chunks = [chunk for chunk in chunks if chunk[0] is not victim]
        preempted = True
    if _need(s, chunks) > s.pool.free:
        chunks = []
        for request in list(s.batch.growing())[s.pool.free :]:
            s.park(request)
    return chunks, preempted


def _need(s: "Scheduler", chunks: Chunks) -> int:
    need = len(s.batch.growing())
    for request, count in chunks:
        need += max(0, s.blocks_for(request.computed + count) - len(request.blocks))
    return need


def _run_in_order(s: "Scheduler", budget: int, threshold: int) -> tuple[Chunks, bool]:
    """Serve running requests one by one until the budget is used; preempt when one cannot get its blocks."""
    chunks: Chunks = []
    order = list(s.running.values())
    served: dict[Request, int] = {}
    preempted = False
    index = 0
    while index < len(order) and budget > 0:
        request = order[index]
        count = 1 if request.decoding else min(request.total - request.computed, threshold, budget)
        while _missing(s, request, count) > s.pool.free:
            victim = s.policy.victim(s)
            place = order.index(victim)
            del order[place]
            index -= place < index
            budget += served.pop(victim, 0)
            s.preempt(victim)
            preempted = True
            if victim is request:
                break
        if request.state is not State.RUNNING:
            break
        s.allocate(request, _progress(s, request) + count)
        served[request] = count
        budget -= count
        index += 1
    for request in order:
        if request not in served:
            s.park(request)
        elif not request.decoding:
            s.chunk(request, served[request])
            chunks.append((request, served[request]))
    return chunks, preempted


def _progress(s: "Scheduler", request: Request) -> int:
    return s.batch.tick + request.offset if request.decoding else request.computed


def _missing(s: "Scheduler", request: Request, count: int) -> int:
    return s.blocks_for(_progress(s, request) + count) - len(request.blocks)


def _admit(s: "Scheduler", chunks: Chunks, budget: int, threshold: int) -> None:
    """Start waiting requests while tokens, sequences and blocks last; paged ones return before them.

    Those whose adapter finds no slot are passed over.
    """
    if s.paged and not s.policy.sliced and not slices.return_in_order(s):
        return
    admitted = False
    slots = loras.resident(s)
    passed: list[Request] = []
    while budget > 0 and (request := s.waiting.peek()) is not None:
        if slots is not None and not slots.fits(request):
            passed.append(s.waiting.take())
            continue
        hit = s.find_prefix(request)
        if not slices.admit(s, request, hit, head=not admitted):
            break
        admitted = True
        if slots is not None:
            slots.add(request)
        count = min(request.total - len(hit) * s.limits.block_size, threshold, budget)
        s.start(request, hit, count)
        chunks.append((request, count))
        budget -= count
    if passed:
        loras.put_back(s, passed)
