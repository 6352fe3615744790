"""AQUA's released coordinator on simulated wires: all or nothing, one donor, polled, blocking."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aquasim.core.leases.faithful import (
    COORDINATOR_ID,
    LOCAL_ID,
    Consumer,
    Coordinator,
    Create,
    Donor,
    Message,
    Move,
    Moved,
    Offer,
    Poll,
    Returned,
    Sent,
    StartReclaim,
)
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.leasing.base import Settings
from aquasim.sim.tenants.base import Borrower


class Released:
    """The market of one server. `pairs` gives each consumer GPU one donor; a second is an error of the caller."""

    def __init__(self, env: Clock, pairs: Mapping[int, Sequence[int]], settings: Settings) -> None:
        assert all(len(donors) == 1 for donors in pairs.values()), "the release knows one donor per consumer"
        self.env = env
        self.settings = settings
        self.coordinator = Coordinator({consumer: donors[0] for consumer, donors in pairs.items()})
        self.machines: dict[int, Callable[[Message], None]] = {}

    def carry(self, sent: Sent, local: Callable[[Message], None]) -> None:
        """Send what a machine answered: calls to the coordinator and back take a message's time each way."""
        for to, message in sent:
            if to == LOCAL_ID:
                local(message)
            elif to == COORDINATOR_ID:
                self._later(lambda m=message: self._call(m))  # type: ignore[misc]
            else:
                self._later(lambda m=message, t=to: self.machines[t](m))  # type: ignore[misc]

    def _later(self, then: Callable[[], None]) -> None:
        self.env.at(self.env.ns + self.settings.message_ns, lambda _: then())

    def _call(self, operation: Any) -> None:
        self.carry(self.coordinator.handle(self.env.ns, operation), lambda message: None)

    def lender(self, gpu: int, regained: Callable[[int], None], tables: RunTables) -> "Lending":
        """Let `gpu` lend."""
        return Lending(self, gpu, regained, tables)

    def borrower(self, gpu: int, sizes: Sequence[int], borrower: Borrower, tables: RunTables) -> None:
        """Let `gpu` keep tensors of these sizes at its donor, each by one call, or in its own host memory."""
        Borrowing(self, gpu, sizes, borrower, tables)


class Lending:
    """The released donor."""

    def __init__(
        self, market: Released, gpu: int, regained: Callable[[int], None], tables: RunTables
    ) -> None:
        self._market = market
        self._gpu = gpu
        self._regained = regained
        self._tables = tables
        self.donor = Donor(gpu)
        market.machines[gpu] = self._tell

    def offer(self, size: int) -> None:
        """Lease `size` bytes out."""
        self._tables.lease(self._market.env.ns, "offered", self._gpu, -1, size)
        self._tell(Offer(size))

    def recall(self) -> None:
        """Ask for the whole lease."""
        self._tables.lease(self._market.env.ns, "reclaim", self._gpu, -1, self.donor.leased)
        self._tell(StartReclaim())

    def poll(self) -> None:
        """Ask whether everybody has left."""
        if self.donor.reclaiming:
            self._tell(Poll())

    def _tell(self, message: Message) -> None:
        self._market.carry(self.donor.handle(self._market.env.ns, message), self._hear)

    def _hear(self, message: Message) -> None:
        if isinstance(message, Returned):
            self._tables.lease(self._market.env.ns, "regained", self._gpu, -1, message.bytes)
            self._regained(message.bytes)


class Borrowing:
    """The released consumer: creates its tensors one call after the other, then looks every period."""

    def __init__(
        self, market: Released, gpu: int, sizes: Sequence[int], borrower: Borrower, tables: RunTables
    ) -> None:
        self._market = market
        self._gpu = gpu
        self._borrower = borrower
        self._tables = tables
        self._donor = market.coordinator.mapping.get(gpu, -1)
        self._todo = deque((f"tensor{index}", size) for index, size in enumerate(sizes))
        self.consumer = Consumer(gpu, period_ns=market.settings.poll_ns)
        market.machines[gpu] = self._tell
        market.env.at(market.env.ns, self._create)
        market.env.at(market.env.ns + market.settings.poll_ns, self._respond)

    def _create(self, _: object = None) -> None:
        if self._todo and not self.consumer.busy:
            self._tell(Create((self._todo.popleft(),)))

    def _respond(self, _: object) -> None:
        env = self._market.env
        if not self._todo:
            self._market.carry(self.consumer.respond(env.ns), self._hear)
        env.at(env.ns + self._market.settings.poll_ns, self._respond)

    def _tell(self, message: Message) -> None:
        env = self._market.env
        self._market.carry(self.consumer.handle(env.ns, message), self._hear)
        env.at(env.ns, self._create)

    def _hear(self, message: Message) -> None:
        """Have tensors moved; the engine stands still meanwhile."""
        if not isinstance(message, Move):
            return
        held = sum(held.allocation.bytes for held in self.consumer.held.values())
        size = held if message.address else held - message.bytes
        event = "granted" if message.address else "revoked"
        self._tables.lease(self._market.env.ns, event, self._donor, self._gpu, message.bytes)
        self._borrower.use_peer(self._donor, size, lambda: self._settled(size))

    def _settled(self, size: int) -> None:
        self._tables.lease(self._market.env.ns, "settled", self._donor, self._gpu, size)
        self._tell(Moved())
