"""How pages of one engine travel: descriptors, paths and ranks of a transfer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from aquasim.core import Limits, Transfer
from aquasim.core.predictor import Copying
from aquasim.hardware.links import LinkKind
from aquasim.hardware.steps import Steps
from aquasim.models import Model
from aquasim.sim.fabric import Done, Port
from aquasim.sim.topology import Server

Path = tuple[Port, ...]
Way = tuple[int, str, tuple[LinkKind, Path], int]
"""(GPU whose copy engine it takes, direction, (link, path), bytes)."""
Copies = Literal["scattered", "column", "block"]

KERNEL_S = 10e-6
"""One gather or scatter launch per block (a gather kernel exists in AQUA's release, unused)."""
RELEASED_OUT_S = 5e-6
"""Per small copy into the staging column, issued from Python: what AQUA's release does on page-out."""
RELEASED_IN_S = 75e-6
"""Scatter kernel, two blocking uploads and a device-wide synchronise per block: what it does on page-in."""


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How one block leaves HBM.

    `scattered`: K and V of each layer by themselves (2 x layers small copies). `column`: gathered over the
    layers into one K and one V copy, at the price of a kernel (`released`: of what AQUA's release does).
    `block`: one copy; the pool is laid out block-first.
    """

    copies: Copies
    block_bytes: int
    """Bytes of one block on one GPU."""
    layers: int
    released: bool = False

    @classmethod
    def of(cls, model: Model, tp: int, block_size: int, copies: Copies, released: bool) -> "PageLayout":
        """Return the layout of a model's blocks on each of `tp` GPUs."""
        return cls(copies, model.kv_bytes_per_token_gpu(tp) * block_size, model.layers, released)

    @property
    def descriptors(self) -> int:
        """Copies per block."""
        return {"scattered": 2 * self.layers, "column": 2, "block": 1}[self.copies]

    def extra(self, kind: str) -> float:
        """Seconds per block spent beside the copies themselves."""
        if self.copies != "column":
            return 0.0
        if not self.released:
            return KERNEL_S
        return RELEASED_IN_S if kind == "in" else RELEASED_OUT_S * 2 * self.layers

    def rate(self, link: LinkKind, kind: str) -> float:
        """Bytes per second of back-to-back blocks on an idle link: size / (start-ups + extras + size / B)."""
        seconds = link.seconds(self.block_bytes / self.descriptors, self.descriptors) + self.extra(kind)
        return self.block_bytes / seconds


class PageCarrier:
    """Carries one engine's transfers: one flow per rank, through that rank's copy engine.

    `donors` are the GPUs, one per rank, whose memory each peer tier is; any other tier is each rank's host memory.
    What migrates passes the donor's host link and copy engine. A transfer takes `each_ns` before its first byte.
    """

    def __init__(
        self,
        server: Server,
        gpus: tuple[int, ...],
        donors: Mapping[str, tuple[int, ...]],
        layout: PageLayout,
        cost: Steps,
        each_ns: int = 0,
    ) -> None:
        assert all(len(ranks) in (0, len(gpus)) for ranks in donors.values())
        self._server = server
        self._gpus = gpus
        self._donors = {tier: ranks for tier, ranks in donors.items() if ranks}
        self._layout = layout
        self._cost = cost
        self._each_ns = each_ns
        self._load = 0.0
        self.shares: dict[str, list[tuple[int, float]]] = {}
        """Tiers that are partly at a donor, partly in host memory (AQUA's release): (GPU, share there) per rank."""

    def carry(self, transfer: Transfer, done: Done) -> None:
        """Send a transfer's blocks over every rank's path; `done` runs when the last rank's last byte is in."""
        env = self._server.fabric.env
        size = transfer.blocks * self._layout.block_bytes
        if size == 0:
            env.at(env.ns, lambda _: done())
            return
        waiting = len(self._gpus)

        def landed() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                done()

        def begin(_: object = None) -> None:
            for rank in range(len(self._gpus)):
                self._send(self._ways(transfer, rank, size), transfer.kind, landed)

        if self._each_ns:
            env.at(env.ns + self._each_ns, begin)
        else:
            begin()

    def _send(self, ways: list[Way], kind: str, landed: Done) -> None:
        """Take one way after the other."""
        gpu, direction, (link, path), size = ways[0]

        def copy(release: Done) -> None:
            def arrived() -> None:
                release()
                if len(ways) > 1:
                    self._send(ways[1:], kind, landed)
                else:
                    landed()

            self._server.fabric.start(path, size, self._layout.rate(link, kind), arrived)

        self._server.copy_engine(gpu, direction).submit(copy)

    def _ways(self, transfer: Transfer, rank: int, size: int) -> list[Way]:
        """Return whose copy engine moves how much, in which direction, over which link and path."""
        if transfer.kind == "migrate":
            return [(*self._move_on(transfer, rank), size)]
        gpu, kind = self._gpus[rank], transfer.kind
        if transfer.tier in self.shares:
            donor, share = self.shares[transfer.tier][rank]
            there = round(size * share)
            both = ((donor, there), (None, size - there))
            return [(gpu, kind, self._between(gpu, at, kind), part) for at, part in both if part]
        donors = self._donors.get(transfer.tier)
        return [(gpu, kind, self._between(gpu, donors[rank] if donors else None, kind), size)]

    def _between(self, gpu: int, donor: int | None, kind: str) -> tuple[LinkKind, Path]:
        server = self._server
        if kind == "out":
            return server.to_host(gpu) if donor is None else server.between(gpu, donor)
        return server.from_host(gpu) if donor is None else server.between(donor, gpu)

    def _move_on(self, transfer: Transfer, rank: int) -> tuple[int, str, tuple[LinkKind, Path]]:
        server = self._server
        here, there = self._donors.get(transfer.tier), self._donors.get(transfer.to)
        if here and there:
            return here[rank], "out", server.between(here[rank], there[rank])
        if here:
            return here[rank], "out", server.to_host(here[rank])
        assert there, "pages move from host to host"
        return there[rank], "in", server.from_host(there[rank])

    def expectations(self, limits: Limits) -> dict[str, Copying]:
        """Return what a block takes to and from each tier where nothing else moves."""
        return {tier: self._expected(tier) for tier, _ in limits.tiers}

    def _expected(self, tier: str) -> Copying:
        size = self._layout.block_bytes
        times = []
        for kind in ("out", "in"):
            ways = self._ways(Transfer(0, kind, tier, 1, (), ()), 0, size)
            times.append(sum([part / self._layout.rate(link, kind) * 1e9 for _, _, (link, _), part in ways]))
        return Copying(*times)

    def contended(self) -> bool:
        """Say whether transfers take HBM bandwidth from this engine now."""
        hbm = self._server.fabric.hbm
        return any(gpu in hbm for gpu in self._gpus) if hbm else False

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        """Return an iteration's time with the HBM share that transfers leave.

        The part spent moving HBM bytes takes 1 / (1 - share) of its time, share = transfers / bandwidth.
        """
        hbm = self._server.fabric.hbm
        load = max(hbm.get(gpu, 0.0) for gpu in self._gpus)
        share = min(0.95, load / self._server.profile.hbm_read)
        moving = self._cost.memory_ns(batch, context, tokens)
        return nanoseconds + int(min(moving, nanoseconds) * share / (1 - share))

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when the share of this engine's HBM bandwidth changes."""

        def rates_changed() -> None:
            hbm = self._server.fabric.hbm
            load = max(hbm.get(gpu, 0.0) for gpu in self._gpus)
            if load != self._load:
                self._load = load
                changed()

        self._server.fabric.watch(rates_changed, self._gpus)
