"""A tier on memory that others lend: extents come, are called back, expire or are orphaned, and pages stay."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from aquasim.core.events import Transfer
from aquasim.core.leases import Cause
from aquasim.runtime.arenas import Arena, create
from aquasim.runtime.executor.executor import Executor
from aquasim.runtime.pager.pager import Pages
from aquasim.runtime.peers.mapped import Mapped


class Client(Protocol):
    """What leases extents for us (`aquasim.runtime.peers.PeerClient`)."""

    def may_write(self, mapped: Mapped) -> bool:
        """Whether a write may be started now."""

    def emptied(self, mapped: Mapped) -> None:
        """Nothing refers to an extent any more."""


class LeasedTier:
    """Keeps a tier of an executor on leased extents. All but `usable` and `evacuate` is for the executor's thread.

    An extent that must be left: the tier shrinks by its blocks, the scheduler moves or drops what is too much, what
    remains on it moves to other extents, and it is given back. One that may not be written to any more (its lease was
    not renewed: the coordinator is away) is copied to memory of our own first; reading it stays allowed. That memory
    is given up again as extents come that hold as much. A page-out decided for extents that all must be left by the
    time it starts goes to memory of our own too, until the tier has shrunk.
    """

    def __init__(
        self, executor: Executor, tier: str, spill: Callable[[int], Arena] = lambda size: create("host", size)
    ) -> None:
        assert executor.pager is not None
        self.client: Client | None = None
        """Set once it exists: it is given our `usable` and `evacuate`."""
        self.resize: Callable[[str, int], None] = executor.resize_tier
        """Told of the tier's new size in blocks; where there are other ranks, they have a word in it."""
        self.spilt = 0
        """Extents that were copied to our own memory because their lease had lapsed."""
        self._executor = executor
        self._pager = executor.pager
        self.name = tier
        self._slots = self._pager.tier(tier)
        self._spill = spill
        self._news: deque[tuple[Mapped, Cause | None]] = deque()
        self._held: dict[str, tuple[Mapped, int]] = {}
        """Extents in use, and their blocks."""
        self._leaving: dict[str, tuple[Mapped | Arena, int]] = {}
        self._own: dict[str, tuple[Arena, int]] = {}
        """Our own memory in use, in place of extents whose lease had lapsed, and its blocks."""
        self._spare = 0
        """Blocks of extents that came since, and that none of our own has made way for yet."""
        self._retired = 0
        self._arenas = 0
        """Arenas of our own that there ever were."""
        executor.upkeep = self.upkeep
        executor.transfers.may_start = self.may_start

    # --- from the client's thread ----------------------------------------------------------------------------

    def usable(self, mapped: Mapped) -> None:
        """An extent may be used."""
        self._news.append((mapped, None))

    def evacuate(self, mapped: Mapped, cause: Cause) -> None:
        """An extent must be left."""
        self._news.append((mapped, cause))

    # --- from the executor's ---------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Blocks that the tier is to have."""
        return sum(count for parts in (self._held, self._own) for _, count in parts.values())

    @property
    def spilling(self) -> bool:
        """Whether pages are, or were until now, in memory of our own."""
        return any(isinstance(part, Arena) for part, _ in (*self._own.values(), *self._leaving.values()))

    def may_start(self, transfer: Transfer, pages: Sequence[Pages]) -> bool:
        """Whether a transfer may write: to extents that need not be left, and whose leases hold."""
        assert self.client is not None
        into = transfer.to if transfer.kind == "migrate" else transfer.tier
        if transfer.kind == "in" or into != self.name:
            return True
        self._follow()
        targets = [block for _, blocks in pages for block in blocks]
        if not self._slots.steer(targets, self._leaving):
            self._stand_in(targets)
        return all(self.client.may_write(mapped) for mapped, _ in self._held.values())

    def upkeep(self) -> bool:
        """Take up what came, leave what must be left; say whether anything changed."""
        changed = bool(self._news)
        while self._news:
            mapped, cause = self._news.popleft()
            if cause is None:
                self._take(mapped)
            else:
                self._leave(mapped)
        if not self._pager.uses(self.name):
            changed = self._rescue() or changed
            changed = self._empty() or changed
        return changed

    def close(self) -> None:
        """Free our own memory. The executor must be idle."""
        for part, _ in (*self._own.values(), *self._leaving.values()):
            if isinstance(part, Arena):
                part.close()

    def _take(self, mapped: Mapped) -> None:
        count = self._slots.add(_name(mapped), mapped.mapping.ptr, mapped.bytes)
        self._held[_name(mapped)] = (mapped, count)
        self._spare = self._spare + count if self._own else 0
        for name, (arena, own) in list(self._own.items()):
            if own <= self._spare:
                self._spare -= own
                del self._own[name]
                self._leaving[name] = (arena, own)
        self._resize()

    def _leave(self, mapped: Mapped) -> None:
        held = self._held.pop(_name(mapped), None)
        if held is not None:
            self._leaving[_name(mapped)] = held
            self._resize()

    def _resize(self) -> None:
        """Have the tier resized, and give its numbers their slots."""
        self.resize(self.name, self.blocks)
        self._follow()

    def _follow(self) -> None:
        """Retire the numbers that the scheduler has retired, and give slots to new ones."""
        pool = self._executor.scheduler.pager.tiers[self.name]
        gone = pool.retired[self._retired :]
        self._retired += len(gone)
        self._pager.retire(self.name, gone)
        self._slots.grow(pool.capacity + pool.debt)

    def _rescue(self) -> bool:
        """Copy extents whose lease has lapsed to our own memory, and give them up."""
        assert self.client is not None
        lapsed = [name for name, (mapped, _) in self._held.items() if not self.client.may_write(mapped)]
        for name in lapsed:
            mapped, count = self._held.pop(name)
            arena = self._spill(max(1, count) * self._slots.block_bytes)
            own = self._own_name()
            self._own[own] = (arena, self._slots.add(own, arena.ptr, count * self._slots.block_bytes))
            self._follow()
            self._pager.empty(self.name, name, self._worth())
            self.spilt += 1
            self.client.emptied(mapped)
        return bool(lapsed)

    def _stand_in(self, targets: list[int]) -> None:
        """Give blocks that have no place but on extents to be left one in memory of our own, for as long as it takes.

        The tier cannot shrink before their transfer has landed: it must go somewhere.
        """
        name = self._own_name()
        arena = self._spill(len(targets) * self._slots.block_bytes)
        self._slots.add(name, arena.ptr, len(targets) * self._slots.block_bytes)
        steered = self._slots.steer(targets, self._leaving)
        assert steered, targets
        self._leaving[name] = (arena, 0)

    def _own_name(self) -> str:
        self._arenas += 1
        return f"own{self._arenas}"

    def _empty(self) -> bool:
        """Give back extents that must be left, once the tier is small enough."""
        assert self.client is not None
        if not self._leaving:
            return False
        pool = self._executor.scheduler.pager.tiers[self.name]
        if pool.debt or pool.capacity > self.blocks:
            return False
        self._follow()
        for name, (part, _) in self._leaving.items():
            self._pager.empty(self.name, name, self._worth())
            if isinstance(part, Arena):
                part.close()
            else:
                self.client.emptied(part)
        self._leaving = {}
        return True

    def _worth(self) -> set[int]:
        """Return the numbers whose blocks somebody holds."""
        pool = self._executor.scheduler.pager.tiers[self.name]
        idle = pool.idle_numbers()
        return {number for number in range(self._slots.made) if number not in idle}


def _name(mapped: Mapped) -> str:
    extent = mapped.extent
    return f"{extent.donor.name}.{extent.donor.run}/{extent.number}@{mapped.epoch}"
