"""How pages of one engine travel: descriptors, paths and ranks of a transfer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aquasim.core import Transfer
from aquasim.hardware.cost import StepCost
from aquasim.hardware.links import LinkKind
from aquasim.models import Model
from aquasim.sim.fabric import Done, Port
from aquasim.sim.topology import Server

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

    `donors` are the GPUs whose memory the tier "peer" is, one per rank; "host" is each rank's host memory.
    """

    def __init__(
        self,
        server: Server,
        gpus: tuple[int, ...],
        donors: tuple[int, ...],
        layout: PageLayout,
        cost: StepCost,
    ) -> None:
        assert not donors or len(donors) == len(gpus)
        self._server = server
        self._gpus = gpus
        self._donors = donors
        self._layout = layout
        self._cost = cost
        self._load = 0.0

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

        for rank, gpu in enumerate(self._gpus):
            link, path = self._path(transfer, rank)
            self._send(gpu, transfer.kind, path, size, self._layout.rate(link, transfer.kind), landed)

    def _send(self, gpu: int, kind: str, path: tuple[Port, ...], size: int, cap: float, landed: Done) -> None:
        def copy(release: Done) -> None:
            def arrived() -> None:
                release()
                landed()

            self._server.fabric.start(path, size, cap, arrived)

        self._server.copy_engine(gpu, kind).submit(copy)

    def _path(self, transfer: Transfer, rank: int) -> tuple[LinkKind, tuple[Port, ...]]:
        gpu, server = self._gpus[rank], self._server
        peer = transfer.tier == "peer"
        if transfer.kind == "migrate":
            donor = self._donors[rank]
            return server.to_host(donor) if peer else server.from_host(donor)
        if transfer.kind == "out":
            return server.between(gpu, self._donors[rank]) if peer else server.to_host(gpu)
        return server.between(self._donors[rank], gpu) if peer else server.from_host(gpu)

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

        self._server.fabric.watch(rates_changed)
