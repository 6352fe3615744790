"""An engine that lends part of its KV cache while it serves, and takes it back when it needs it."""

from collections import deque
from typing import TYPE_CHECKING

from aquasim.core.informers import QueueInformer, WindowInformer
from aquasim.core.scheduler import HBM
from aquasim.runtime.arenas import Arena
from aquasim.runtime.copy import Copier, Descriptors
from aquasim.runtime.donor.client import DonorClient
from aquasim.runtime.donor.elastic import ElasticPool
from aquasim.runtime.donor.frames import Frames, Int64s

if TYPE_CHECKING:
    from aquasim.runtime.executor import Executor

INTERVAL_NS = 100_000_000
"""Between two questions to the informer."""


class Lending:
    """Asks an informer when to lend; shrinks the cache by whole extents, lends them through `client`, grows again.

    Without an informer it is done by hand: `shrink`, `recall`.

    The engine never stops for it. To shrink, the scheduler gives blocks up (by preempting, if need be); between two
    steps what is left in the extents that hold least is copied to others, and block tables follow; the extents are
    unmapped, scrubbed beside the engine, and lent. To grow, extents are mapped again as they come back, scrubbed.
    AQUA's release stops the engine, swaps everything out, and makes cache and CUDA graphs anew; here no address
    changes.

    Everything but what comes back runs in the executor's thread. Make it after whatever else sets the executor's
    hooks (`LeasedTier`), before the first request, and keep calling `turn`, idle or not; `client` lends nothing
    else. The cache keeps what the longest request needs.
    """

    def __init__(
        self, executor: "Executor", memory: ElasticPool, client: DonorClient,
        informer: QueueInformer | WindowInformer | None, copier: Copier, *, interval_ns: int = INTERVAL_NS,
    ) -> None:  # fmt: skip
        """Raises ValueError where the informer's loan is less than an extent, or the cache not this engine's."""
        self.executor, self.memory, self.client, self.informer = executor, memory, client, informer
        self.lent: set[int] = set()
        """Extents that are away."""
        self.moved_blocks = 0
        """Blocks that were copied to let extents go."""
        self._check(informer)
        scheduler, pool = executor.scheduler, memory.pool
        self.frames = Frames(
            scheduler.pool, self._flying, pool.base, pool.block_bytes, memory.extents, memory.per_extent
        )
        self._copier = copier
        self._interval, self._ask_at = interval_ns, executor.now() + interval_ns
        self._back: deque[Arena] = deque()
        self._index = {id(arena): index for index, arena in enumerate(memory.memory.arenas)}
        self._shrinking = self._recalled = False
        self._leaving = 0
        """Extents that the scheduler needs no more and that are still to be emptied."""
        self._upkeep, self._released = executor.upkeep, executor.on_released
        self._hook()

    @property
    def settled(self) -> bool:
        """Whether no extent is about to leave."""
        return not self._shrinking and not self._leaving

    # --- hooks -----------------------------------------------------------------------------------------------

    def _hook(self) -> None:
        executor = self.executor
        executor.upkeep, executor.boundary, executor.on_released = self.upkeep, self.between, self.released
        executor.rows.place = self.frames.places
        if executor.pager is not None:
            executor.pager.hbm = self.frames
        self._note_size()

    def upkeep(self) -> bool:
        """Each turn: take back what came, ask the informer when it is time; say whether anything changed."""
        changed = self._upkeep() if self._upkeep is not None else False
        while self._back:
            self._take_back(self._back.popleft())
            changed = True
        if not self.executor.stepping:
            changed = self.between() or changed
        now = self.executor.now()
        if self.informer is not None and now >= self._ask_at:
            self._ask_at = now + self._interval
            changed = self._ask(self.informer, now) or changed
        return changed

    def between(self) -> bool:
        """Between two steps: empty extents that are to leave, as far as nothing in them is in flight."""
        if not self._leaving:
            return False
        gone, moved = self.frames.vacate(self._leaving, self._copy)
        if moved:
            self.executor.runner.batch.readdress(moved)
            self.moved_blocks += len(moved)
        if gone:
            self._lend(gone)
        return bool(gone)

    def released(self, tier: str, blocks: int) -> None:
        """The scheduler has brought a tier to size: for the cache's, extents can go."""
        if self._released is not None:
            self._released(tier, blocks)
        if tier == HBM and self._shrinking:
            self._shrinking = False
            self._leaving = len(self.frames.home) - blocks // self.memory.per_extent

    # --- lending ---------------------------------------------------------------------------------------------

    def shrink(self, extents: int) -> int:
        """Begin to lend `extents` extents, or as many as can be spared; return how many."""
        longest = -(-self.executor.scheduler.limits.max_model_len // self.memory.pool.block_size)
        kept = -(-longest // self.memory.per_extent)
        extents = max(0, min(extents, len(self.frames.home) - kept))
        if extents:
            self._shrinking = True
            self._resize(len(self.frames.home) - extents)
        return extents

    def recall(self) -> bool:
        """Ask for everything back; False: it is not all lent yet, ask again."""
        nbytes = len(self.lent) * self.memory.extent_bytes
        if not self.settled or self.client.donated < nbytes:
            return False
        if nbytes:
            self.client.reclaim(nbytes)
        return True

    def _ask(self, informer: QueueInformer | WindowInformer, now: int) -> bool:
        """Do what the informer says."""
        scheduler, size = self.executor.scheduler, self.memory.block_bytes
        queue = len(scheduler.waiting) + len(scheduler.newcomers)
        if isinstance(informer, QueueInformer):
            change = informer.inform(queue, scheduler.pool.held * size)
        else:
            change = informer.inform(now, scheduler.pool.free * size, queue)
        if change < 0:
            if not self.shrink(-change // self.memory.extent_bytes):
                self._made_space()
            return True
        if informer.reclaiming and not self._recalled:
            self._recalled = self.recall()
            self._all_back()
        return False

    def _lend(self, extents: list[int]) -> None:
        """Let emptied extents go."""
        self._leaving -= len(extents)
        self.lent |= set(extents)
        arenas = [self.memory.memory.leave(extent) for extent in extents]
        self.client.lend(arenas, self._back.append)
        self._note_size()
        if not self._leaving:
            self._made_space()

    def _made_space(self) -> None:
        if isinstance(self.informer, QueueInformer):
            self.informer.done_making_space()

    # --- taking back -----------------------------------------------------------------------------------------

    def _take_back(self, arena: Arena) -> None:
        """An extent came back, scrubbed: map it, and let the scheduler have its blocks."""
        extent = self._index[id(arena)]
        self.memory.memory.come(extent)
        self.frames.come(extent)
        self.lent.discard(extent)
        if self.settled:
            self._resize(len(self.frames.home))
        self._note_size()
        self._all_back()

    def _all_back(self) -> None:
        """Tell the informer once nothing is away any more."""
        if self._recalled and not self.lent and self.informer is not None:
            self._recalled = False
            self.informer.returned()

    # --- parts -----------------------------------------------------------------------------------------------

    def _resize(self, extents: int) -> None:
        self.executor.resize_tier(HBM, extents * self.memory.per_extent)

    def _note_size(self) -> None:
        nbytes = self.frames.room * self.memory.block_bytes
        self.executor.tables.memory(self.executor.now(), HBM, nbytes)

    def _copy(self, old: Int64s, new: Int64s) -> None:
        sizes = old * 0 + self.memory.block_bytes
        self._copier.submit(Descriptors(old, new, sizes), self._copier.outgoing).wait()

    def _flying(self) -> set[int]:
        """Return the cache's numbers that transfers under way, or waiting to start, refer to."""
        found: set[int] = set()
        for flight in self.executor.scheduler.pager.flights.values():
            side = {"out": 0, "in": 1}.get(flight.transfer.kind)
            if side is not None:
                found.update(number for pages in flight.pages for number in pages[side])
        return found

    def _check(self, informer: QueueInformer | WindowInformer | None) -> None:
        """Raise ValueError for a loan below an extent and a cache of another size."""
        if isinstance(informer, QueueInformer):
            loan = informer.max_bytes - informer.min_retain_bytes
            if loan < self.memory.extent_bytes:
                raise ValueError(
                    f"the informer lends {loan} bytes; an extent has {self.memory.extent_bytes}: nothing to lend"
                )
        blocks = self.executor.scheduler.limits.blocks
        if blocks != self.memory.blocks or self.executor.runner.pool is not self.memory.pool:
            raise ValueError(
                f"the engine's cache has {blocks} blocks, the memory {self.memory.blocks}: make one for the other"
            )
