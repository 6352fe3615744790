"""AQUA's released consumer policy: a donor's memory or pinned host memory, changed at iteration boundaries."""

from dataclasses import dataclass, field
from typing import NamedTuple

from aquasim.core.leases.faithful.messages import (
    COORDINATOR_ID,
    LOCAL_ID,
    Allocate,
    Allocated,
    Allocation,
    Create,
    FreeAllocation,
    Message,
    Move,
    Moved,
    MustLeave,
    Refused,
    Respond,
    Sent,
)


class Held(NamedTuple):
    """An allocation and the tensors in it."""

    allocation: Allocation
    tensors: tuple[str, ...]


@dataclass(slots=True)
class Consumer:
    """The released dynamic policy: a donor's memory if all fits, else pinned host memory; looks again every period.

    `respond(now)` is to be called at each iteration boundary and acts at most once per `period_ns`; only then do
    tensors move, and the engine waits (`busy`) until they have.
    """

    gpu: int
    period_ns: int = 4_000_000_000
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of every tensor. Each also owns host memory of full size."""
    held: dict[int, Held] = field(default_factory=dict)
    responded_at: int | None = None
    _call: tuple[str, ...] = ()
    """Tensors of the allocation asked for."""
    _moving: bool = False
    _asked: bool = False
    _leaving: tuple[int, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether the engine must wait: a call or a move is under way."""
        return self._moving or self._asked or bool(self._call)

    def peer(self, tensor: str) -> str | None:
        """Return the address of a tensor's copy on a donor, or None: it is in host memory."""
        addresses = (h.allocation.address for h in self.held.values() if tensor in h.tensors)
        return next(addresses, None)

    def respond(self, now: int) -> Sent:
        """An iteration ended at `now` (ns): demote what must leave, or promote everything if nothing is held."""
        if self.busy or (self.responded_at is not None and now - self.responded_at < self.period_ns):
            return []
        self.responded_at = now
        if self.held:
            self._asked = True
            return [(COORDINATOR_ID, Respond(self.gpu, tuple(self.held)))]
        return self._allocate(tuple(self.sizes))

    def wake_at(self) -> None:
        """Never: iterations come by themselves."""

    def handle(self, now: int, message: Message) -> Sent:
        """Take a message from the engine or a reply of the coordinator; `now` plays no part."""
        match message:
            case Create(tensors=tensors):
                assert not self.busy, "create while a call or a move is under way"
                self.sizes.update(tensors)
                return self._allocate(tuple(name for name, _ in tensors))
            case Allocated(allocation=allocation):
                return self._promote(allocation)
            case MustLeave(allocations=leaving):
                self._asked = False
                return self._demote(leaving)
            case Moved():
                return self._moved()
            case Refused(reason=reason):
                raise AssertionError(f"the coordinator refused GPU {self.gpu}: {reason}")
        return []

    def _allocate(self, tensors: tuple[str, ...]) -> Sent:
        if not tensors:
            return []
        self._call = tensors
        return [(COORDINATOR_ID, Allocate(self.gpu, sum(self.sizes[name] for name in tensors)))]

    def _promote(self, allocation: Allocation | None) -> Sent:
        tensors, self._call = self._call, ()
        if allocation is None:
            return []
        self.held[allocation.allocation] = Held(allocation, tensors)
        self._moving = True
        return [(LOCAL_ID, Move(tensors, allocation.bytes, allocation.address))]

    def _demote(self, leaving: tuple[int, ...]) -> Sent:
        if not leaving:
            return []
        self._leaving, self._moving = leaving, True
        gone = [self.held[id] for id in leaving]
        tensors = tuple(name for held in gone for name in held.tensors)
        return [(LOCAL_ID, Move(tensors, sum(held.allocation.bytes for held in gone), ""))]

    def _moved(self) -> Sent:
        """Free what was left only now that every byte is in host memory."""
        leaving, self._leaving, self._moving = self._leaving, (), False
        for id in leaving:
            del self.held[id]
        return [(COORDINATOR_ID, FreeAllocation(self.gpu, id)) for id in leaving]

    def check(self) -> None:
        """Assert that no tensor is in two allocations, and what leaves is held."""
        names = [name for held in self.held.values() for name in held.tensors]
        assert len(names) == len(set(names))
        assert set(self._leaving) <= self.held.keys()
