"""Serving engines that lend memory: when (an informer's rule), how the KV cache shrinks and grows, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from aquasim.core.informers import QueueInformer, WindowInformer
from aquasim.records.tables import RunTables
from aquasim.sim.carrier import PageLayout
from aquasim.sim.engine import Engine
from aquasim.sim.fabric import Done
from aquasim.sim.leasing.base import Loan
from aquasim.sim.topology import Server


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What resizing costs in AQUA's release: the engine stops, swaps all out, makes the cache anew, swaps in.

    Source: AQUA's vLLM fork, which also captures graphs again unless it runs eagerly.
    """

    allocate_s: float = 0.1
    """To free and allocate the cache: chosen."""
    capture_s: float = 0.0
    """To capture CUDA graphs again; 0 with --enforce-eager, as in its recipes."""


class Lending:
    """Asks the informer every `interval_ns`, and shrinks and grows the cache as it says, in whole blocks.

    `rebuild` None: extents are unmapped and mapped page by page while the engine runs (virtual memory management).
    """

    def __init__(
        self,
        server: Server,
        engine: Engine,
        gpus: Sequence[int],
        layout: PageLayout,
        informer: WindowInformer | QueueInformer,
        interval_ns: int,
        rebuild: Rebuild | None,
        tables: RunTables,
    ) -> None:
        self.informer = informer
        self.loans: list[Loan] = []
        """One per GPU; set once they exist."""
        self._server = server
        self._engine = engine
        self._gpus = tuple(gpus)
        self._layout = layout
        self._interval = interval_ns
        self._rebuild = rebuild
        self._tables = tables
        self._total = engine.scheduler.limits.blocks
        self._blocks = self._total
        self._offered = 0
        self._back = [0] * len(self._gpus)
        self._recalled = self._resizing = False

    def start(self) -> None:
        """Begin to ask."""
        self._tables.memory(self._engine.env.ns, "hbm", self._total * self._layout.block_bytes)
        self._engine.env.at(self._engine.env.ns + self._interval, self._tick)

    def regained(self, rank: int, size: int) -> None:
        """Bytes of one GPU are its own again."""
        self._back[rank] += size
        if self._offered and min(self._back) == self._offered:
            self.informer.returned()

    def released(self, blocks: int) -> None:
        """The cache is down to `blocks`, or up to them."""
        self._resizing = False
        lent = (self._total - blocks) * self._layout.block_bytes
        if lent and not self._offered:
            if isinstance(self.informer, QueueInformer):
                self.informer.done_making_space()
            self._offered = self.informer.donated_bytes
            self._back, self._recalled = [0] * len(self._gpus), False
            for loan in self.loans:
                loan.offer(self._offered)

    def _tick(self, _: object) -> None:
        env = self._engine.env
        env.at(env.ns + self._interval, self._tick)
        if self._resizing:
            return
        for loan in self.loans:
            loan.poll()
        change = self._inform()
        if change < 0:
            self._resize(self._total + change // self._layout.block_bytes)
        elif self.informer.reclaiming and not self._recalled:
            self._recalled = True
            for loan in self.loans:
                loan.recall()
        else:
            self._take_back()

    def _inform(self) -> int:
        scheduler, size = self._engine.scheduler, self._layout.block_bytes
        pool, queue = scheduler.pool, self._engine.queued
        if isinstance(self.informer, QueueInformer):
            return self.informer.inform(queue, pool.held * size)
        return self.informer.inform(self._engine.env.ns, pool.free * size, queue)

    def _take_back(self) -> None:
        """Grow by what came back on every GPU."""
        missing = self._offered - min(self._back)
        blocks = self._total + -missing // self._layout.block_bytes
        if blocks > self._blocks:
            if not missing:
                self._offered, self._back = 0, [0] * len(self._gpus)
            self._resize(blocks)

    # --- resizing --------------------------------------------------------------------------------------------

    def _resize(self, blocks: int) -> None:
        self._resizing = True
        self._blocks = blocks
        if self._rebuild is None:
            self._set(blocks)
        else:
            self._engine.pause(lambda: self._swap("out", self._allocate))

    def _set(self, blocks: int) -> None:
        self._tables.memory(self._engine.env.ns, "hbm", blocks * self._layout.block_bytes)
        self._engine.resize_tier("hbm", blocks)

    def _allocate(self) -> None:
        assert self._rebuild is not None
        env = self._engine.env
        wait = round((self._rebuild.allocate_s + self._rebuild.capture_s) * 1e9)
        env.at(env.ns + wait, lambda _: self._swap("in", self._rebuilt))

    def _rebuilt(self) -> None:
        self._set(self._blocks)
        self._engine.resume()

    def _swap(self, direction: str, then: Done) -> None:
        """Move what running requests hold to or from the host on every GPU, block by block."""
        pool = self._engine.scheduler.pool
        used = pool.held * self._layout.block_bytes
        waiting = len(self._gpus)

        def landed() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                then()

        for gpu in self._gpus:
            link, path = self._server.to_host(gpu) if direction == "out" else self._server.from_host(gpu)
            self._server.fabric.start(path, used, self._layout.rate(link, direction), landed)
