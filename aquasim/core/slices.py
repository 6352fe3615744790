"""Time slices: who of more requests than fit is resident next, and whom a newcomer displaces."""

from operator import attrgetter
from typing import TYPE_CHECKING

from aquasim.core import loras
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

RANK = attrgetter("rank")


def select(s: "Scheduler") -> None:
    """Take a new decision if one is due: when the slice is over, or nothing is left that decodes."""
    if s.policy.ranked:
        s.policy.refresh(s)
        if s.paged or s.waiting:
            _decide(s)
    elif s.slice_left <= 0 or not (s.batch.count or s.prefilling or s.pager.arrivals):
        if s.paged or s.batch.count > s.pool.free:
            _decide(s, due=s.slice_left <= 0 and s.batch.count > 0)
        else:
            sort_running(s)
        s.slice_left = s.policy.slice_length
    elif s.refill and s.paged and s.policy.backfill:
        _refill(s)
    s.refill = False
    if s.inbound:
        bring(s)


def sort_running(s: "Scheduler") -> None:
    """Order the running by rank, least first; what still prefills stays behind."""
    if len(s.running) > 1:
        order = sorted([r for r in s.running.values() if r.decoding], key=RANK)
        s.running = {r.id: r for r in order} | {id: r for id, r in s.running.items() if not r.decoding}


def _decide(s: "Scheduler", due: bool = False) -> None:
    """Choose the least-ranked requests that fit, one block of headroom each; page the others out.

    Stops at the first that does not fit unless the policy fills up behind it (`backfill`). Where only the slice is
    over (`due`), the policy may find the exchange not worth it: all goes on as it is.
    """
    contenders = _contenders(s)
    chosen = _choose(s, contenders, _budget(s))
    picked = dict.fromkeys(chosen)
    leaving = [r for r in contenders if r.decoding and r not in picked]
    if due and leaving and not s.policy.worthwhile(leaving, [r for r in chosen if r.id in s.paged], s):
        return
    for request in leaving:
        s.preempt(request)
    staying = {r.id: r for r in chosen if r.decoding}
    s.running = staying | {id: r for id, r in s.running.items() if id not in staying}
    s.inbound = [r for r in chosen if r.id in s.paged]
    s.quota = len(chosen) - len(staying) - len(s.inbound) if s.policy.ranked else None


def _contenders(s: "Scheduler") -> list[Request]:
    """Return all that may be resident, by rank; ties go to those that were paged out before."""
    lead = s.batch.slope * s.batch.tick
    decoders = sorted([r for r in s.running.values() if r.decoding], key=RANK)
    others = [*s.paged.values(), *(s.waiting if s.policy.ranked else ())]
    others.sort(key=RANK)
    if not others:
        return decoders
    merged: list[Request] = []
    append = merged.append
    index, last = 0, len(others)
    for request in decoders:
        rank = request.rank + lead
        while index < last and others[index].rank <= rank:
            append(others[index])
            index += 1
        append(request)
    return merged + others[index:]


def _budget(s: "Scheduler") -> int:
    """Blocks that the chosen may hold: all but those of requests that stay whatever is decided."""
    fixed = sum([len(r.blocks) for r in s.running.values() if not r.decoding])
    return s.pool.capacity - fixed - s.pager.arriving - s.pager.arrivals


def _choose(s: "Scheduler", contenders: list[Request], budget: int) -> list[Request]:
    chosen: list[Request] = []
    backfill = s.policy.backfill
    alone = budget == s.pool.capacity  # whoever has all the memory needs no headroom
    seats = s.limits.max_num_seqs - (len(s.running) - s.batch.count) - s.pager.arrivals
    if s.limits.prefill == "chunked":
        seats = min(seats, s.limits.max_num_batched_tokens)
    size = s.limits.block_size
    slots = loras.fixed(s)
    for request in contenders:
        if slots is not None and not slots.fits(request):
            continue
        blocks = request.blocks
        tokens = request.computed if request.copy_tier else request.total
        need = (len(blocks) if blocks else -(-tokens // size)) + 1
        if need > budget and (chosen or not alone or need > budget + 1):
            if (
                backfill or not chosen
            ):  # what still prefills may leave too little for the first: take who fits
                continue
            break
        if len(chosen) >= seats:
            break
        chosen.append(request)
        budget -= need
        if slots is not None:
            slots.add(request)
    return chosen


def _refill(s: "Scheduler") -> None:
    """Bring paged requests into memory that came free within a slice; nobody leaves for them."""
    room = s.pool.free + s.pager.leaving - s.batch.count
    coming = dict.fromkeys(s.inbound)
    room -= sum([s.return_cost(r) + 1 for r in coming])
    slots = loras.resident(s)
    seats = s.limits.max_num_seqs - len(s.running) - s.pager.arrivals - len(coming)
    for request in sorted(s.paged.values(), key=RANK):
        if len(s.inbound) - len(coming) >= seats:
            return
        need = s.return_cost(request) + 1
        if request not in coming and need <= room and (slots is None or slots.fits(request)):
            s.inbound.append(request)
            room -= need
            if slots is not None:
                slots.add(request)


def bring(s: "Scheduler") -> None:
    """Page chosen requests in, in order, as far as free blocks go.

    Blocks promised to the step that is out stay free, and so do (where page-outs are awaited) those that the
    next newcomer was given. A request whose adapter's slot went to a newcomer waits for the next decision.
    """
    slots = loras.resident(s)
    head = s.waiting.peek() if s.pager.overlap else None
    kept = s.reserved + (s.blocks_for(head.total) if head is not None else 0)
    for place, request in enumerate(s.inbound):
        if request.id not in s.paged:  # its tier is being emptied: it is paged again when it has moved
            continue
        if slots is not None and not slots.fits(request):
            continue
        full = len(s.running) + s.pager.arrivals >= s.limits.max_num_seqs
        if full or s.return_cost(request) > s.pool.free - kept:
            s.inbound = s.inbound[place:]
            return
        if not request.copy_tier and s.quota is not None:
            s.quota += 1
        s.bring_back(request)
        if slots is not None:
            slots.add(request)
    s.inbound = []


def return_in_order(s: "Scheduler") -> bool:
    """Bring paged requests back, oldest first, while they fit; False if one must go on waiting.

    Those whose adapter finds no slot are passed over.
    """
    slots = loras.resident(s)
    all_back = True
    for request in list(s.paged.values()):
        if slots is not None and not slots.fits(request):
            all_back = False
            continue
        headroom = 1 + s.watermark if s.running else 0
        full = len(s.running) + s.pager.arrivals >= s.limits.max_num_seqs
        if full or s.return_cost(request) + headroom > s.pool.free:
            return False
        s.bring_back(request)
        if slots is not None:
            slots.add(request)
    return all_back


def admit(s: "Scheduler", newcomer: Request, hit: list[int], head: bool) -> bool:
    """Find a waiting request a seat and its blocks; False if it cannot start now.

    In time slices the head of the queue displaces running requests for them; those behind it start only where
    there is room (AQUA's release evicts for the head of an iteration).
    """
    if s.policy.ranked:
        return _chosen(s) and len(s.running) < s.limits.max_num_seqs and s.admissible(newcomer, hit)
    if not s.policy.admits(s):
        return False
    seat = len(s.running) + s.pager.arrivals < s.limits.max_num_seqs
    if seat and s.admissible(newcomer, hit):
        return True
    if not s.policy.sliced or not head or not _worthwhile(s, newcomer) or s.policy.stages(newcomer, s):
        return False
    if not seat and not _evict_one(s, newcomer):
        return False
    return _evict_for(s, newcomer, hit)


def _chosen(s: "Scheduler") -> bool:
    """Use up one of the places that a ranked decision gave to waiting requests."""
    if s.quota is None:
        return True
    s.quota -= 1
    return s.quota >= 0


def _worthwhile(s: "Scheduler", newcomer: Request) -> bool:
    """Say whether a newcomer would fit if everyone who can be displaced were."""
    decoders = sum([len(r.blocks) for r in s.running.values() if r.decoding])
    return s.blocks_for(newcomer.total) <= s.pool.free + s.pager.leaving + decoders


def _evict_for(s: "Scheduler", newcomer: Request, hit: list[int]) -> bool:
    """Page running requests out until a newcomer fits; False if it has to wait for their blocks."""
    while not s.admissible(newcomer, hit):
        short = s.blocks_for(newcomer.total) + s.watermark - s.pool.free
        if s.pager.overlap and s.pager.leaving >= short:
            return False
        if not _evict_one(s, newcomer):
            return False
    return True


def _evict_one(s: "Scheduler", newcomer: Request) -> bool:
    victim = s.policy.displaced(s, newcomer)
    if victim is None:
        return False
    s.preempt(victim)
    return True
