"""What every tenant of a server can be asked, and what those that borrow or lend memory can."""

from typing import Protocol

from aquasim.records.tables import RunTables
from aquasim.sim.fabric import Done


class Tenant(Protocol):
    """Something that runs on GPUs of a server and keeps records."""

    name: str
    tables: RunTables

    def start(self) -> None:
        """Begin, at time 0."""

    @property
    def done(self) -> bool:
        """Whether its work is over: no request is left, or its time is up."""


class Borrower(Protocol):
    """A tenant that can keep state in memory of other GPUs, beside its own host memory.

    Whoever holds the leases calls `use_peer`, and not again for the same donor until that settled.
    """

    def use_peer(self, donor: int, size: int, settled: Done) -> None:
        """At most `size` bytes of GPU `donor` may hold this tenant's state from its next iteration boundary on.

        More than before: state moves there from the host, over that GPU's host link. Less: what is too much moves
        to the host the same way. `settled` is called once no more than `size` is in use there and what was to come
        has come.
        """
