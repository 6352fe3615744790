"""A client whose leases are granted by hand, and tensors to tell apart."""

from typing import TYPE_CHECKING, Any

from aquasim.core.leases import Extent, Process
from aquasim.runtime.arenas import Rate, create
from aquasim.runtime.peers import Mapped
from aquasim.runtime.tensors import AquaTensor, Moves, PeerPool

if TYPE_CHECKING:
    import torch

KIB = 1 << 10
MIB = 1 << 20
PERIOD_S = 4.0


class Fake:
    """A client whose extents are memory of this process; leases are granted, lapse and are called back by hand."""

    def __init__(self, host_bytes: int = 64 * KIB) -> None:
        self.now = 0.0
        self.held: dict[Mapped, bool] = {}
        """Extents that are leased, and whether they may be written to."""
        self.leaving: set[Mapped] = set()
        self.number = 0
        self.pool = PeerPool(None, "t", 0, host_bytes, period_s=PERIOD_S, client=self, clock=lambda: self.now)

    def may_write(self, mapped: Mapped) -> bool:
        """See PeerClient."""
        return self.held[mapped] and mapped not in self.leaving

    def emptied(self, mapped: Mapped) -> None:
        """See PeerClient."""
        mapped.mapping.scrub()  # whoever reads it from now on reads nothing
        mapped.mapping.close()
        del self.held[mapped]
        self.leaving.discard(mapped)

    def grant(self, nbytes: int = 16 * KIB) -> Mapped:
        """Lease another extent."""
        self.number += 1
        arena: Any = create("memfd", nbytes)
        extent = Extent(Process("donor", 1), self.number)
        mapped = Mapped(extent, 1, nbytes, arena, "test", (Rate(nbytes, 1.0, 1.0),))
        self.held[mapped] = True
        self.pool.usable(mapped)
        return mapped

    def revoke(self, mapped: Mapped) -> None:
        """Call an extent back."""
        self.leaving.add(mapped)
        self.pool.evacuate(mapped, "reclaim")

    def later(self, seconds: float = PERIOD_S) -> Moves:
        """Let time pass, then respond."""
        self.now += seconds
        return self.pool.respond()


def data(nbytes: int, seed: int = 0) -> "torch.Tensor":
    """Return bytes that differ from seed to seed."""
    import torch

    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def side(tensor: AquaTensor) -> str:
    """Return where a tensor is at this moment: "peer" or "host"."""
    return tensor.where


def same(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    """Whether two tensors are alike to the bit, NaNs and signs of zeros included."""
    import torch

    alike = one.dtype == other.dtype and one.shape == other.shape
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return alike and torch.equal(*flat)
