"""What a pool of tensors says and asks: its error, its report, its source of extents."""

from dataclasses import dataclass
from typing import Protocol

from aquasim.runtime.peers import Mapped


class PoolFullError(MemoryError):
    """Neither leased nor host memory has room for a tensor; the text names the bytes asked for and free."""


class Client(Protocol):
    """What leases extents for us (`aquasim.runtime.peers.PeerClient`)."""

    def may_write(self, mapped: Mapped) -> bool:
        """Whether a write may be started now."""

    def emptied(self, mapped: Mapped) -> None:
        """Nothing refers to an extent any more."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What one `respond()` did, in bytes: to the host, to leased memory, and what must leave but could not yet."""

    demoted: int = 0
    promoted: int = 0
    held: int = 0
