"""A serving engine's pages in memory of other GPUs: tiers that come and go, or the release's movable swap space."""

from collections.abc import Sequence

from aquasim.records.tables import RunTables
from aquasim.sim.carrier import PageCarrier, PageLayout
from aquasim.sim.engine import Engine
from aquasim.sim.fabric import Done
from aquasim.sim.topology import Server

SWAP = "swap"
"""The one tier of AQUA's release: full-size host memory, of which a donor may hold a copy."""


class PeerTiers:
    """Tiers whose blocks lie on donors, one donor per rank: as large as the smallest rank's lease.

    `donors[tier]` are the GPUs, in the order of ranks.
    """

    def __init__(
        self, engine: Engine, donors: dict[str, tuple[int, ...]], block_bytes: int, tables: RunTables
    ) -> None:
        self._engine = engine
        self._block_bytes = block_bytes
        self._tables = tables
        self._sizes = {tier: [0] * len(ranks) for tier, ranks in donors.items()}
        self._blocks = dict.fromkeys(donors, 0)
        self._place = {(gpu, rank): tier for tier, ranks in donors.items() for rank, gpu in enumerate(ranks)}
        self._waiting: dict[str, list[Done]] = {tier: [] for tier in donors}

    def rank(self, rank: int) -> "RankOfTiers":
        """Return what one rank's consumer talks to."""
        return RankOfTiers(self, rank)

    def use(self, rank: int, donor: int, size: int, settled: Done) -> None:
        """One rank's lease at `donor` has a new size."""
        tier = self._place[donor, rank]
        self._sizes[tier][rank] = size
        blocks = min(self._sizes[tier]) // self._block_bytes
        before, self._blocks[tier] = self._blocks[tier], blocks
        if blocks != before:
            self._tables.memory(self._engine.env.ns, tier, blocks * self._block_bytes)
            self._engine.resize_tier(tier, blocks)
        if blocks < before or self._waiting[tier]:
            self._waiting[tier].append(settled)
        else:
            settled()

    def released(self, tier: str, blocks: int) -> None:
        """The engine uses no more than `blocks` of a tier any more."""
        if blocks == self._blocks[tier]:
            waiting, self._waiting[tier] = self._waiting[tier], []
            for settled in waiting:
                settled()


class RankOfTiers:
    """One rank's view of `PeerTiers`."""

    def __init__(self, tiers: PeerTiers, rank: int) -> None:
        self._tiers = tiers
        self._rank = rank

    def use_peer(self, donor: int, size: int, settled: Done) -> None:
        """See `Borrower`."""
        self._tiers.use(self._rank, donor, size, settled)


class SwapSpace:
    """The release's swap space of one rank: moved whole over the donor's host link while the engine stands still."""

    def __init__(
        self,
        server: Server,
        engine: Engine,
        carrier: PageCarrier,
        layout: PageLayout,
        rank: int,
        size: int,
        tables: RunTables,
    ) -> None:
        self._server = server
        self._engine = engine
        self._carrier = carrier
        self._layout = layout
        self._rank = rank
        self._size = size
        self._tables = tables
        self._there = 0

    def use_peer(self, donor: int, size: int, settled: Done) -> None:
        """See `Borrower`. Copies are counted in both places: host memory keeps the full size."""
        self._engine.pause(lambda: self._move(donor, size, settled))

    def _move(self, donor: int, size: int, settled: Done) -> None:
        server = self._server
        link, path = server.from_host(donor) if size > self._there else server.to_host(donor)
        column = self._layout.block_bytes / 2
        rate = column / link.seconds(column, 1)

        def moved() -> None:
            self._there = size
            self._carrier.shares[SWAP][self._rank] = (donor, size / self._size)
            self._tables.memory(self._engine.env.ns, "peer", size)
            settled()
            self._engine.resume()

        server.fabric.start(path, abs(size - self._there), rate, moved)


def tier_donors(donors: Sequence[int], tp: int) -> dict[str, tuple[int, ...]]:
    """Return peer tiers from a flat list of donor GPUs: each takes one per rank, in order."""
    groups = [tuple(donors[i : i + tp]) for i in range(0, len(donors), tp)]
    return {"peer" if len(groups) == 1 else f"peer{k}": ranks for k, ranks in enumerate(groups)}
