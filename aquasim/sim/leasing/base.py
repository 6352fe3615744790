"""What tenants see of a lease protocol: a loan to offer and call back, and `Borrower.use_peer`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aquasim.records.tables import RunTables
from aquasim.sim.tenants.base import Borrower

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Constants of the protocols.

    `poll_ns`: how often a consumer looks whether it must leave (released: 4 s). `message_ns`: one way, process to
    process (released: half of a REST call; 1 to 3 ms were seen). The others belong to the intended protocol.
    """

    poll_ns: int = 4_000_000_000
    message_ns: int = 1_000_000
    lease_ns: int = 10_000_000_000
    heartbeat_ns: int = 1_000_000_000
    drain_ns: int = 5_000_000_000
    extent_bytes: int = 256 * MIB


class Loan(Protocol):
    """One GPU's side of lending."""

    def offer(self, size: int) -> None:
        """These bytes are physically free, and may be lent from now on."""

    def recall(self) -> None:
        """Get every byte back that was offered; they come through `regained`, in one or more parts."""

    def poll(self) -> None:
        """Look whether they are back (the release has to ask)."""


class Market(Protocol):
    """Brings together who lends and who borrows."""

    def lender(self, gpu: int, regained: Callable[[int], None], tables: RunTables) -> Loan:
        """Let `gpu` lend; `regained(bytes)` is called when memory it recalled is its own again."""

    def borrower(self, gpu: int, sizes: Sequence[int], borrower: Borrower, tables: RunTables) -> None:
        """Let `gpu` borrow from now on: `sizes` are the tensors it would keep at a donor, in bytes."""
