"""AQUA's fair time slices, as released and as evidently meant."""

from typing import TYPE_CHECKING

from aquasim.core.policies.base import FOREVER, Policy
from aquasim.core.policies.rooms import lacks, room
from aquasim.core.request import Request, State

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler


class Cfs(Policy):
    """AQUA's completely fair scheduler, to the letter of its first release (ASPLOS 2025; vLLM 0.3.2 fork).

    Newcomers are prefilled before any decode resumes, paging out the leftmost running requests as needed. A
    slice is 6 decode iterations; at its end the requests with the fewest generated tokens that fit, one block
    of headroom each, run next, up to the first that does not fit. Page-outs move new blocks and the last,
    dirty one; page-ins move all.

    Args:
        slice_length: decode iterations in a slice.
        clamp: newcomers start from the least service of those present instead of zero, so that old requests
            cannot starve under sustained load (off = as released).
        backfill: go on past the first request that does not fit.
        overlap: transfers run beside compute instead of before the next iteration.
    """

    sliced = True
    slope = 1
    pages = True

    def __init__(
        self, *, slice_length: int = 6, clamp: bool = False, backfill: bool = False, overlap: bool = False
    ) -> None:
        if slice_length < 1:
            raise ValueError(f"slice_length is {slice_length}; it must be at least 1")
        self.slice_length = slice_length
        self.clamp = clamp
        self.backfill = backfill
        self.overlap = overlap

    def admit(self, request: Request, s: "Scheduler") -> None:
        """Start a newcomer at zero tokens, or (clamped) at the least service present."""
        request.credit = self._least(s) if self.clamp else 0
        request.rank = self.rank(request)

    def _least(self, s: "Scheduler") -> int:
        tick = s.batch.tick
        served = [r for r in s.requests.values() if r.state is not State.WAITING]
        return min([r.rank + (tick if r.decoding else 0) for r in served], default=0)

    def rank(self, request: Request) -> int:
        """Return generated tokens, plus what a clamped newcomer was credited with."""
        return request.generated + request.credit

    def displaced(self, s: "Scheduler", newcomer: Request) -> Request | None:
        """Return the leftmost running decoder: the least served, since slices order by service."""
        return next((r for r in s.running.values() if r.decoding), None)

    def victim(self, s: "Scheduler") -> Request:
        """Return the most served decoder: nobody falls behind for want of a block."""
        decoders = [r for r in s.running.values() if r.decoding]
        return max(decoders or s.running.values(), key=lambda r: (r.rank, r.id))

    def horizon(self, s: "Scheduler") -> int:
        """Return the rest of the slice; further while nobody competes and headroom lasts."""
        if s.paged or s.inbound or s.pager.flights or s.waiting:
            return s.slice_left
        return max(s.slice_left, s.batch.room(s.pool.free - s.batch.count, FOREVER))


class Aqua(Cfs):
    """The intended design, ours: clamped, overlapped, and the cheapest to move go first.

    Changes to `cfs`, and why: newcomers are clamped to the least service present, so long outputs cannot
    starve; page-outs and page-ins run beside compute, so the batch never stops for a transfer; a newcomer
    displaces the request with the smallest dirty share (a copy already in the tier costs nothing to evict)
    instead of the least served; selection goes on past a request that does not fit, so memory does not idle;
    memory that comes free within a slice is filled; and a slice goes on where the tiers cannot take all that
    would leave, or small ones would have whole contexts computed again and again. Copies of those that run are
    given up first. Pages move as whole blocks where the layout allows.
    """

    def __init__(self, *, slice_length: int = 16, clamp: bool = True, backfill: bool = True) -> None:
        super().__init__(slice_length=slice_length, clamp=clamp, backfill=backfill, overlap=True)

    def displaced(self, s: "Scheduler", newcomer: Request) -> Request | None:
        """Return a decoder that a tier can take, if any; the smallest dirty share of its blocks; the most served."""
        decoders = [r for r in s.running.values() if r.decoding]
        rooms = {tier: room(tier, s) for tier in s.pager.tiers}

        def cost(r: Request) -> tuple[bool, int, int, int]:
            homeless = all(lacks(r, tier) > free for tier, free in rooms.items())
            return homeless, s.pager.dirty(r) * 1024 // len(r.blocks), -r.rank, r.id

        return min(decoders, key=cost, default=None)

    def worthwhile(self, leaving: list[Request], arriving: list[Request], s: "Scheduler") -> bool:
        """Say whether the tiers can take all that would leave; without any, computing again is what was asked for."""
        tiers = s.pager.tiers
        return not tiers or sum([len(r.blocks) for r in leaving]) <= sum([room(tier, s) for tier in tiers])

    def places(self, request: Request, s: "Scheduler") -> list[str] | None:
        """Return None while a tier has room, else one that is made room in by giving copies up."""
        tiers = s.pager.tiers
        order = [tier for tier in (request.copy_tier, *tiers) if tier in tiers]
        if any(tiers[tier].free >= lacks(request, tier) for tier in order):
            return None
        return next(([tier] for tier in order if s.pager.spare(tier, lacks(request, tier), request)), None)
