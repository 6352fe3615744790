"""Peer memory and the host's cores at once: whoever leaves HBM goes where that is predicted to delay it least."""

from typing import TYPE_CHECKING

from aquasim.core.policies.base import LaneRules
from aquasim.core.policies.cfs import Aqua
from aquasim.core.policies.rooms import lacks, room
from aquasim.core.predictor import Copying, Predictor
from aquasim.core.request import Request

if TYPE_CHECKING:
    from aquasim.core.scheduler import Scheduler

HOST = "host"
AGAIN = ""
"""The place of what is computed again."""
MEMORY = 1 / 64
"""Weight of an iteration in how fast the host was found to decode."""


class Hybrid(Aqua):
    """AQUA's slices over the GPU and its tiers, NEO's lanes for who is in host memory; ours, in neither paper.

    A request that leaves HBM waits for its next turn. Each place delays it by what its copies take, out and back;
    on the host, less what it is expected to decode there meanwhile; computed again, the time of its prompt for
    everybody who decodes. It goes to the place of the least delay that has room. A newcomer displaces others or is
    computed straight into the host's memory by the same measure, and waits rather than have somebody computed again.
    A slice goes on while the exchange at its end would take more than `overhead` of the time since the last.

    Needs a `Predictor` with `copies`.
    """

    lanes = LaneRules(beside=True)

    def __init__(self, *, slice_length: int = 16, overhead: float = 0.02) -> None:
        if not 0 < overhead <= 1:
            raise ValueError(f"overhead is {overhead}; it must be above 0 and at most 1")
        super().__init__(slice_length=slice_length)
        self.overhead = overhead
        self.pace = 0.0
        """Share of iterations in which one that lives on the host decodes there, lately."""
        self._exchanged = 0

    def hosted(self, count: int, of: int) -> None:
        """Take note that `count` of the `of` requests on the host decoded in an iteration."""
        self.pace += (count / of - self.pace) * MEMORY

    # --- delays, ns ------------------------------------------------------------------------------------------

    def delay(self, request: Request, place: str, s: "Scheduler") -> float:
        """Return by how much a resident request comes later if it leaves for `place`."""
        tables = self._tables()
        if place == AGAIN:
            return tables.recompute(s.blocks_for(request.total) * s.limits.block_size) * (s.batch.count + 1)
        count = len(request.blocks)
        moved = s.pager.dirty(request) if place == request.copy_tier else count
        copying = self._copying(place)
        delay = moved * copying.out + count * copying.back
        return delay - self._made_there(s) if place == HOST else delay

    def _made_there(self, s: "Scheduler") -> float:
        """Return how much of its absence a request is expected to spend decoding on the host."""
        return self.pace * self._absence(s)

    def _absence(self, s: "Scheduler") -> float:
        """Return how long the next turn takes to come: all who are paged before it, as many at a time as run."""
        tables, batch = self._tables(), s.batch
        if not batch.count:
            return 0.0
        width = min(batch.count, s.limits.max_num_batched_tokens)  # more may be back than decode at a time
        iteration = tables.layers * (tables.linear.at(width) + tables.gpu_decode.at(batch.context))
        return iteration * self.slice_length * (1 + len(s.paged) / batch.count)

    def _tables(self) -> Predictor:
        assert self.predictor is not None, "this policy needs a predictor"
        return self.predictor

    def _copying(self, place: str) -> Copying:
        return self._tables().copies[place]

    def _nearest(self, request: Request, s: "Scheduler") -> tuple[float, str]:
        return min([(self.delay(request, place, s), place) for place in self._open(request, s)])

    def _open(self, request: Request, s: "Scheduler") -> list[str]:
        """Return the places with room for a resident request."""
        return [tier for tier in s.pager.tiers if lacks(request, tier) <= room(tier, s)] + [AGAIN]

    # --- answers ---------------------------------------------------------------------------------------------

    def places(self, request: Request, s: "Scheduler") -> list[str]:
        """Return the tiers that delay a request less than to be computed again, best first."""
        ranked = sorted([(self.delay(request, place, s), place) for place in [*s.pager.tiers, AGAIN]])
        order = [place for _, place in ranked]
        order = order[: order.index(AGAIN)]
        for place in order:
            if s.pager.spare(place, lacks(request, place), request):
                break
        return order

    def admits(self, s: "Scheduler") -> bool:
        """Say whether nobody is paged, or runs, or the tiers could take all that HBM holds."""
        return not (s.paged and s.running and self._tight(s))

    def displaced(self, s: "Scheduler", newcomer: Request) -> Request | None:
        """Return the decoder that gives its blocks at the least delay each; None if a tier has room for none."""
        best = self._cheapest(s)
        return best[0][2] if best else None

    def _cheapest(self, s: "Scheduler") -> list[tuple[float, int, Request]]:
        """Return who can leave for a tier, the least delay per block first, the most served of equals."""
        found = []
        for request in s.running.values():
            if request.decoding:
                delay, place = self._nearest(request, s)
                if place != AGAIN:
                    found.append((delay / len(request.blocks), -request.rank, request))
        return sorted(found, key=_key)

    def stages(self, newcomer: Request, s: "Scheduler") -> bool:
        """Say whether the host delays a newcomer less than it would delay those whom it displaces."""
        need = s.blocks_for(newcomer.total)
        if newcomer.total > s.limits.max_num_batched_tokens - s.batch.count or not (
            HOST in s.pager.tiers and need <= room(HOST, s)
        ):
            return False
        there = need * self._copying(HOST).back - self._made_there(s)
        short = need + s.watermark - s.pool.free - s.pager.leaving
        if short <= 0:
            return False
        delay = 0.0
        for each, _, request in self._cheapest(s):
            if short <= 0:
                break
            delay += each * len(request.blocks)
            short -= len(request.blocks)
        return short > 0 or there < delay

    def _tight(self, s: "Scheduler") -> bool:
        """Say whether the tiers may not take all that HBM holds: then those who run had better come to their end."""
        return sum([room(tier, s) for tier in s.pager.tiers]) < s.pool.capacity

    def victim(self, s: "Scheduler") -> Request:
        """Return the most served decoder if a tier has room for it, else who costs least to compute again."""
        most = super().victim(s)
        if any(lacks(most, tier) <= room(tier, s) for tier in s.pager.tiers):
            return most
        return min(s.running.values(), key=lambda r: (len(r.blocks), -r.arrival, -r.id))

    def worthwhile(self, leaving: list[Request], arriving: list[Request], s: "Scheduler") -> bool:
        """Say whether the copies of an exchange take at most `overhead` of the time since the last one."""
        if self._tight(s):
            return False
        tables = self._tables()
        out = back = 0.0
        for request in leaving:
            count, held = len(request.blocks), s.pager.dirty(request)
            out += min(
                [c.out * (held if t == request.copy_tier else count) for t, c in tables.copies.items()]
            )
        for request in arriving:
            if request.copy_tier:
                back += self._copying(request.copy_tier).back * len(request.copy)
            else:
                back += tables.recompute(s.blocks_for(request.total) * s.limits.block_size)
        if max(out, back) > self.overhead * (s.now - self._exchanged):
            return False
        self._exchanged = s.now
        return True


def _key(entry: tuple[float, int, Request]) -> tuple[float, int, int]:
    return entry[0], entry[1], entry[2].id
