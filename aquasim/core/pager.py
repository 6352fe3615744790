"""Residency: which request's blocks are where, and the transfers that change it.

Serial transfers are ordered, not awaited: a victim's blocks may be re-used at once because whatever re-uses
them names the page-out in its `after`. Overlapped ones are awaited: blocks stay with their transfer, and a
request neither runs nor frees memory before `TransferDone`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from aquasim.core.blocks import BlockPool
from aquasim.core.events import Move, Transfer
from aquasim.core.request import Request, State

Pages = tuple[tuple[int, ...], tuple[int, ...]]
"""Blocks to copy from, blocks to copy to, in step."""


class Flight(NamedTuple):
    """A transfer under way: its requests, and the blocks to give back to `pool` when it lands.

    `pages`: for each of its moves, which blocks go where; kept where somebody has to copy them (`Pager.track`).
    """

    transfer: Transfer
    requests: tuple[Request, ...]
    pool: BlockPool | None
    blocks: list[int]
    pages: tuple[Pages, ...] = ()


class Pager:
    """Pages requests out of and into HBM over tiers in order of preference.

    A copy in a tier stays valid while its request runs (`keep_copies`): the next page-out moves only the
    blocks that are new and the last, dirty one (AQUA's incremental swap-out); a page-in moves every block.
    """

    def __init__(
        self,
        hbm: BlockPool,
        block_size: int,
        tiers: dict[str, BlockPool],
        *,
        keep_copies: bool,
        overlap: bool,
    ) -> None:
        self.hbm = hbm
        self.tiers = tiers
        self.overlap = overlap
        self.flights: dict[int, Flight] = {}
        self.landed: Callable[[Request], None] = lambda request: None
        self.track = False
        """Note which blocks each transfer copies: for executors that move bytes."""
        self._size = block_size
        self._keep = keep_copies
        self._out: dict[str, list[tuple[Request, int, list[int]]]] = {}
        self._in: dict[str, list[tuple[Request, int]]] = {}
        self._copies: dict[str, dict[Request, None]] = {name: {} for name in tiers}
        self._shrinking: dict[str, None] = {}
        self._rising: dict[str, dict[Request, None]] = {}
        """Requests whose copies may move up into a tier that grew."""
        self._next = 0
        self.leaving = 0
        """HBM blocks that awaited page-outs will free."""
        self.arriving = 0
        """HBM blocks of awaited page-ins."""
        self.arrivals = 0
        """Requests of awaited page-ins."""

    @property
    def moving(self) -> bool:
        """Whether any transfer is under way or decided."""
        return bool(self.flights or self._out or self._in)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens`."""
        return -(-tokens // self._size)

    def dirty(self, request: Request) -> int:
        """Blocks a page-out of `request` would move."""
        return len(request.blocks) - request.copied // self._size

    # --- HBM to tier ---------------------------------------------------------------------------------------

    def page_out(self, request: Request, places: Iterable[str] | None = None) -> bool:
        """Start to move a resident request's blocks to the first tier with room; False: no tier has any.

        Without `places` its copy's tier comes first, then all in their order.
        """
        if places is None:
            places = [request.copy_tier, *self.tiers] if request.copy_tier else self.tiers
        tier = self._place(request, places)
        if tier is None:
            self.drop_copy(request)
            return False
        blocks = request.blocks
        moved = len(blocks) - request.copied // self._size
        request.copied = request.computed
        leaving = self._out.get(tier)
        if leaving is None:
            leaving = self._out[tier] = []
        leaving.append((request, moved, blocks))
        if self.overlap:
            request.state = State.LEAVING
            self.leaving += len(blocks)
        else:
            self.hbm.give(blocks)
            request.state = State.PAGED
        request.blocks = []
        return True

    def _place(self, request: Request, places: Iterable[str]) -> str | None:
        """Reserve tier blocks for every block of `request`, beside those that its copy has."""
        count = len(request.blocks)
        for name in places:
            pool = self.tiers[name]
            if name == request.copy_tier:
                extra = count - len(request.copy)
                if not pool.debt and pool.free >= extra:
                    if extra:
                        request.copy += pool.take(extra)
                    return name
            elif pool.free >= count:
                self.drop_copy(request)
                request.copy = pool.take(count)
                request.copy_tier = name
                self._copies[name][request] = None
                return name
        return None

    def spare(self, tier: str, count: int, but: Request | None = None) -> bool:
        """Drop copies of resident requests, `but` one, until a tier has `count` free blocks; False: it never will."""
        pool = self.tiers[tier]
        coming = [but, *(request for arriving in self._in.values() for request, _ in arriving)]
        for request in [r for r in self._copies[tier] if r.state is State.RUNNING and r.blocks]:
            if pool.free >= count:
                break
            if not self._flying(request) and request not in coming:
                self.drop_copy(request)
        return pool.free >= count

    def drop_copy(self, request: Request) -> None:
        """Forget a request's copy and free its tier blocks."""
        if request.copy_tier:
            self.tiers[request.copy_tier].give(request.copy)
            del self._copies[request.copy_tier][request]
            request.copy, request.copy_tier, request.copied = [], "", 0

    def settle_in(self, request: Request, tier: str, count: int) -> None:
        """Give a request that was never resident blocks of its own in `tier`; the caller has checked its pool."""
        assert not request.copy_tier, request
        request.copy, request.copy_tier = self.tiers[tier].take(count), tier
        self._copies[tier][request] = None

    # --- tier to HBM ---------------------------------------------------------------------------------------

    def page_in(self, request: Request, resident: list[int]) -> None:
        """Start to bring a paged request back; the caller has checked that HBM has room.

        `resident` are leading blocks found (and held) in HBM's prefix cache, which need not move.
        """
        count = -(-request.computed // self._size)
        moved = count - len(resident)
        taken = self.hbm.take(moved)
        request.blocks = resident + taken if resident else taken
        arriving = self._in.get(request.copy_tier)
        if arriving is None:
            arriving = self._in[request.copy_tier] = []
        arriving.append((request, moved))
        request.state = State.RUNNING
        if self.overlap:
            request.state = State.ARRIVING
            self.arriving += count
            self.arrivals += 1

    def cancel_in(self, request: Request) -> bool:
        """Take back a page-in that no command has named yet; False: there is none."""
        for arriving in self._in.values():
            for place, (coming, _) in enumerate(arriving):
                if coming is request:
                    del arriving[place]
                    self.hbm.give(request.blocks)
                    request.blocks = []
                    request.state = State.PAGED
                    return True
        return False

    # --- commands and completions --------------------------------------------------------------------------

    def commands(self) -> list[Transfer]:
        """Everything paged since the last call as one transfer per tier and direction, page-outs first."""
        transfers = []
        for tier, leaving in self._out.items():
            moves = tuple(Move(request.id, moved) for request, moved, _ in leaving)
            flight = self._launch("out", tier, moves, tuple(request for request, _, _ in leaving))
            if self.overlap:
                blocks = [block for _, _, held in leaving for block in held]
                flight = flight._replace(pool=self.hbm, blocks=blocks)
            if self.track:
                pages = [_pages(held, request.copy, moved, len(held)) for request, moved, held in leaving]
                flight = flight._replace(pages=tuple(pages))
            self.flights[flight.transfer.transfer] = flight
            transfers.append(flight.transfer)
        self._out = {}
        for tier, arriving in self._in.items():
            if not arriving:
                continue
            moves = tuple(Move(request.id, count) for request, count in arriving)
            flight = self._launch("in", tier, moves, tuple(request for request, _ in arriving))
            if self.track:
                pages = [
                    _pages(request.copy, request.blocks, moved, self.blocks_for(request.computed))
                    for request, moved in arriving
                ]
                flight = flight._replace(pages=tuple(pages))
            self.flights[flight.transfer.transfer] = flight
            transfers.append(flight.transfer)
        self._in = {}
        return transfers

    def _launch(
        self, kind: str, tier: str, moves: tuple[Move, ...], requests: tuple[Request, ...], to: str = ""
    ) -> Flight:
        after = () if self.overlap or kind == "migrate" else self.pending()
        number = self._next
        self._next += 1
        blocks = sum(move.blocks for move in moves)
        transfer = Transfer(number, kind, tier, blocks, moves, after, to)  # type: ignore[arg-type]
        return Flight(transfer, requests, None, [])

    def pending(self) -> tuple[int, ...]:
        """Transfers that a step must wait for: the serial ones that are not done."""
        if self.overlap or not self.flights:
            return ()
        return tuple(n for n, flight in self.flights.items() if flight.transfer.kind != "migrate")

    def done(self, number: int) -> None:
        """Settle a transfer that landed."""
        flight = self.flights.pop(number)
        if flight.pool is not None:
            flight.pool.give(flight.blocks)
            if flight.pool is self.hbm:
                self.leaving -= len(flight.blocks)
        elif self.overlap:
            self.arriving -= sum([len(request.blocks) for request in flight.requests])
            self.arrivals -= len(flight.requests)
        if flight.transfer.kind == "in" and not self._keep:
            for request in flight.requests:
                self.drop_copy(request)
        if self.overlap or flight.transfer.kind == "migrate":
            arrived = flight.transfer.kind == "in"
            for request in flight.requests:
                if request.state is State.GONE:
                    self._free(request)
                else:
                    request.state = State.RUNNING if arrived else State.PAGED
                    self.landed(request)

    def release(self, request: Request) -> None:
        """End a request's life and free what it holds; blocks that a transfer still uses follow when it lands."""
        moving = request.state is State.LEAVING or request.state is State.ARRIVING
        request.state = State.GONE
        if not moving:
            self._free(request)

    def _free(self, request: Request) -> None:
        if request.blocks:
            self.hbm.give(request.blocks, request.computed // self._size)
            request.blocks = []
        if request.copy_tier:
            self.drop_copy(request)

    # --- tiers that come and go ----------------------------------------------------------------------------

    def resize(self, tier: str, blocks: int) -> None:
        """Give a tier a new size; as `settle` runs, a shrink empties it and growth draws later tiers' copies up."""
        if tier not in self.tiers:
            self.tiers[tier] = BlockPool(0)
            self._copies[tier] = {}
        pool = self.tiers[tier]
        if blocks < pool.capacity or tier in self._shrinking:
            self._shrinking[tier] = None
            self._rising.pop(tier, None)
        elif blocks > pool.capacity:
            later = list(self.tiers)[list(self.tiers).index(tier) + 1 :]
            self._rising[tier] = {request: None for name in later for request in self._copies[name]}
        pool.resize(blocks)

    def settle(self, chosen: list[Request]) -> tuple[list[Transfer], list[Request], list[tuple[str, int]]]:
        """Empty shrinking tiers: drop spare copies, move the needed ones on, give up those without a place.

        Then move copies up into tiers that grew, one at a time, but none of the requests `chosen` to return.

        Returns:
            Migrations, requests that lost their pages, and (tier, size) of tiers that are down to size.
        """
        migrations: list[Transfer] = []
        lost: list[Request] = []
        for tier in self._shrinking:
            self._shed_spare(tier)
            transfer, homeless = self._migrate(tier)
            migrations += transfer
            lost += homeless
        small = [tier for tier in self._shrinking if not self.tiers[tier].debt]
        for tier in small:
            del self._shrinking[tier]
        for tier in list(self._rising):
            migrations += self._promote(tier, chosen)
        return migrations, lost, [(tier, self.tiers[tier].capacity) for tier in small]

    def _promote(self, tier: str, chosen: list[Request]) -> list[Transfer]:
        """Move the next copy up into `tier`, unless one is on its way or there is no room for it."""
        rising, pool = self._rising[tier], self.tiers[tier]
        if any(f.transfer.to == tier for f in self.flights.values()):
            return []
        for request in list(rising):
            source = request.copy_tier
            if source in ("", tier) or request.state is State.GONE:
                del rising[request]
            elif request.state is State.PAGED and request not in chosen and not self._flying(request):
                if pool.free < len(request.copy):
                    return []
                del rising[request]
                return [self._launch_migration(source, tier, [(request, self._readdress(request, tier))])]
        if not rising:
            del self._rising[tier]
        return []

    def _readdress(self, request: Request, target: str) -> list[int]:
        """Give a paged request's copy blocks in another tier, which has room, and return its old ones."""
        old = request.copy
        del self._copies[request.copy_tier][request]
        request.copy, request.copy_tier = self.tiers[target].take(len(old)), target
        self._copies[target][request] = None
        request.state = State.LEAVING
        return old

    def _flying(self, request: Request) -> bool:
        return any(request in flight.requests for flight in self.flights.values())

    def _shed_spare(self, tier: str) -> None:
        """Drop copies of resident requests until the tier is small enough."""
        pool = self.tiers[tier]
        for request in [r for r in self._copies[tier] if r.state is State.RUNNING]:
            if not pool.debt:
                return
            if not self._flying(request):
                self.drop_copy(request)

    def _migrate(self, tier: str) -> tuple[list[Transfer], list[Request]]:
        pool = self.tiers[tier]
        leaving = sum(
            len(f.blocks) for f in self.flights.values() if f.transfer.kind == "migrate" and f.pool is pool
        )
        by_target: dict[str, list[tuple[Request, list[int]]]] = {}
        lost = []
        for request in [r for r in self._copies[tier] if r.state is State.PAGED]:
            if pool.debt <= leaving:
                break
            if self._flying(request):
                continue
            target = self._next_tier(tier, len(request.copy))
            if target is None:
                self.drop_copy(request)
                lost.append(request)
                continue
            old = self._readdress(request, target)
            leaving += len(old)
            by_target.setdefault(target, []).append((request, old))
        return [self._launch_migration(tier, target, group) for target, group in by_target.items()], lost

    def _next_tier(self, tier: str, blocks: int) -> str | None:
        return next((n for n, p in self.tiers.items() if n != tier and p.free >= blocks), None)

    def _launch_migration(self, tier: str, target: str, group: list[tuple[Request, list[int]]]) -> Transfer:
        moves = tuple(Move(request.id, len(old)) for request, old in group)
        flight = self._launch("migrate", tier, moves, tuple(request for request, _ in group), target)
        flight = flight._replace(pool=self.tiers[tier], blocks=[block for _, old in group for block in old])
        if self.track:
            flight = flight._replace(pages=tuple((tuple(old), tuple(request.copy)) for request, old in group))
        self.flights[flight.transfer.transfer] = flight
        return flight.transfer

    # --- invariants ----------------------------------------------------------------------------------------

    def held_in_flight(self, pool: BlockPool) -> list[int]:
        """Blocks of `pool` that only a transfer holds."""
        held = [block for flight in self.flights.values() if flight.pool is pool for block in flight.blocks]
        if self.overlap and pool is self.hbm:
            held += [block for leaving in self._out.values() for _, _, blocks in leaving for block in blocks]
        return held

    def check(self) -> None:
        """Assert that every tier's blocks are owned once."""
        for name, pool in self.tiers.items():
            held = [block for request in self._copies[name] for block in request.copy]
            pool.check(held + self.held_in_flight(pool))


def _pages(source: list[int], target: list[int], moved: int, count: int) -> Pages:
    """Return the last `moved` of the first `count` blocks on either side."""
    return tuple(source[count - moved : count]), tuple(target[count - moved : count])
