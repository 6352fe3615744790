"""The protocol of `aquasim.core.leases` on simulated wires: partial grants, several donors, two-phase reclaim."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Consumer,
    Coordinator,
    Donate,
    Donor,
    Emptied,
    Evacuate,
    Extent,
    Lease,
    Message,
    Process,
    Reclaim,
    Regained,
    Usable,
    Wake,
    Want,
)
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Call, Clock
from aquasim.sim.leasing.base import Settings
from aquasim.sim.tenants.base import Borrower


def process(gpu: int) -> Process:
    """Name the process that speaks for a GPU."""
    return Process(f"gpu{gpu}")


def number(name: str) -> int:
    """Return the GPU that a process speaks for."""
    return int(name.removeprefix("gpu"))


class Machine(Protocol):
    """Coordinator, donor or consumer."""

    def handle(self, now: int, message: Any) -> list[tuple[Process, Message]]:
        """Take a message, return what is to be sent."""

    def wake_at(self) -> int | None:
        """When it wants `Wake` (ns)."""


class Node:
    """One machine in simulated time: gets messages and wakes, has what it answers carried."""

    def __init__(self, market: "Intended", machine: Machine, local: Callable[[Message], None]) -> None:
        self._market = market
        self._machine = machine
        self._local = local
        self._wake: Call | None = None
        self._wake_time = -1

    def tell(self, message: Message) -> None:
        """Hand the machine a message now."""
        env = self._market.env
        for to, answer in self._machine.handle(env.ns, message):
            if to == LOCAL:
                self._local(answer)
            else:
                self._market.carry(to, answer)
        wake = self._machine.wake_at()
        if wake is not None and (self._wake is None or wake != self._wake_time):
            self._wake_time = wake
            self._wake = env.at(max(wake, env.ns), self._woken)

    def _woken(self, call: Call) -> None:
        if call is self._wake:
            self._wake = None
            self.tell(Wake())


class Intended:
    """The market of one server. `pairs` names each consumer GPU's donors, nearest first."""

    def __init__(self, env: Clock, pairs: Mapping[int, Sequence[int]], settings: Settings) -> None:
        self.env = env
        self.settings = settings
        near = {process(c).name: tuple(process(d).name for d in donors) for c, donors in pairs.items()}
        self.coordinator = Coordinator(near=near, lease_ns=settings.lease_ns, drain_ns=settings.drain_ns)
        self.nodes = {COORDINATOR: Node(self, self.coordinator, lambda message: None)}

    def carry(self, to: Process, message: Message) -> None:
        """Deliver a message after the wire's delay."""
        self.env.at(self.env.ns + self.settings.message_ns, lambda _: self.nodes[to].tell(message))

    def lender(self, gpu: int, regained: Callable[[int], None], tables: RunTables) -> "Lending":
        """Let `gpu` lend."""
        return Lending(self, gpu, regained, tables)

    def borrower(self, gpu: int, sizes: Sequence[int], borrower: Borrower, tables: RunTables) -> None:
        """Let `gpu` borrow up to the sum of `sizes` in all."""
        Borrowing(self, gpu, borrower, tables).want(sum(sizes))


class Lending:
    """A donor and its engine's account of it."""

    def __init__(
        self, market: Intended, gpu: int, regained: Callable[[int], None], tables: RunTables
    ) -> None:
        self._env = market.env
        self._gpu = gpu
        self._regained = regained
        self._tables = tables
        self._extent_bytes = market.settings.extent_bytes
        self._next = 0
        self._lent = 0
        self.donor = Donor(process(gpu), heartbeat_ns=market.settings.heartbeat_ns)
        self._node = market.nodes[process(gpu)] = Node(market, self.donor, self._back)

    def offer(self, size: int) -> None:
        """Lend `size` bytes, in extents; the last may be smaller."""
        whole, rest = divmod(size, self._extent_bytes)
        sizes = [self._extent_bytes] * whole + ([rest] if rest else [])
        first, self._next = self._next, self._next + len(sizes)
        self._lent += size
        self._tables.lease(self._env.ns, "offered", self._gpu, -1, size)
        self._node.tell(Donate(tuple(enumerate(sizes, first))))

    def recall(self) -> None:
        """Ask for everything; extents nobody holds come back at once, the others as they are emptied."""
        self._tables.lease(self._env.ns, "reclaim", self._gpu, -1, self._lent)
        self._node.tell(Reclaim(self._lent))

    def poll(self) -> None:
        """Nothing to do: the protocol pushes."""

    def _back(self, message: Message) -> None:
        if isinstance(message, Regained):
            self._lent -= message.bytes
            self._tables.lease(self._env.ns, "regained", self._gpu, -1, message.bytes)
            self._regained(message.bytes)


class Borrowing:
    """A consumer and what its tenant may use of each donor."""

    def __init__(self, market: Intended, gpu: int, borrower: Borrower, tables: RunTables) -> None:
        self._env = market.env
        self._gpu = gpu
        self._borrower = borrower
        self._tables = tables
        self._held: dict[int, dict[Extent, tuple[int, int]]] = {}
        """(bytes, epoch) of what may be used, by donor GPU."""
        self._new: set[Extent] = set()
        """Extents that the tenant has not been told of."""
        self._leaving: dict[int, list[tuple[Extent, int]]] = {}
        self._told: dict[int, int] = {}
        self._busy: set[int] = set()
        self._asked: set[int] = set()
        self.consumer = Consumer(
            process(gpu),
            heartbeat_ns=market.settings.heartbeat_ns,
            margin_ns=min(500_000_000, market.settings.lease_ns // 4),
        )
        self._node = market.nodes[process(gpu)] = Node(market, self.consumer, self._hear)

    def want(self, size: int) -> None:
        """Ask for `size` bytes in all."""
        self._node.tell(Want(size))

    def _hear(self, message: Message) -> None:
        if isinstance(message, Usable):
            self._gain(message.lease)
        elif isinstance(message, Evacuate):
            donor = number(message.extent.donor.name)
            size, epoch = self._held[donor].pop(message.extent)
            self._new.discard(message.extent)
            self._leaving.setdefault(donor, []).append((message.extent, epoch))
            self._tables.lease(self._env.ns, "revoked", donor, self._gpu, size)
            self._ask(donor)

    def _gain(self, lease: Lease) -> None:
        donor = number(lease.extent.donor.name)
        self._held.setdefault(donor, {})[lease.extent] = (lease.bytes, lease.epoch)
        self._new.add(lease.extent)
        self._tables.lease(self._env.ns, "granted", donor, self._gpu, lease.bytes)
        self._ask(donor)

    def _ask(self, donor: int) -> None:
        """Tell the tenant, once all of this instant's changes are known."""
        if donor not in self._asked:
            self._asked.add(donor)
            self._env.last(lambda _: self._tell(donor))

    def _tell(self, donor: int) -> None:
        self._asked.discard(donor)
        if donor in self._busy:
            return
        held, gone = self._held[donor], self._leaving.pop(donor, [])
        if not gone:  # else first what must be left, then, once it is, what is new
            self._new -= held.keys()
        size = sum(size for extent, (size, _) in held.items() if extent not in self._new)
        if size == self._told.get(donor, 0) and not gone:
            return
        self._told[donor] = size
        self._busy.add(donor)
        self._borrower.use_peer(donor, size, lambda: self._settled(donor, size, gone))

    def _settled(self, donor: int, size: int, gone: list[tuple[Extent, int]]) -> None:
        self._busy.discard(donor)
        self._tables.lease(self._env.ns, "settled", donor, self._gpu, size)
        for extent, epoch in gone:
            self._node.tell(Emptied(extent, epoch))
        self._ask(donor)
