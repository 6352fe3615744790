"""AQUA's released coordinator: accounting in memory, one reply per operation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aquasim.core.leases.faithful.messages import (
    AddMapping,
    Allocate,
    Allocated,
    Allocation,
    CreateStore,
    DeleteMapping,
    Done,
    DropStore,
    EndReclaim,
    FreeAllocation,
    MustLeave,
    Operation,
    ReclaimStatus,
    Refused,
    Reply,
    RequestReclaim,
    ResizeStore,
    Respond,
    Sent,
    StoreStatus,
)


@dataclass(slots=True)
class Store:
    """What one donor GPU leases out: address, capacity and allocated bytes."""

    address: str
    capacity: int
    allocated: int = 0


class Coordinator:
    """The released coordinator: eight operations and the mapping, each answered at once."""

    def __init__(self, mapping: Mapping[int, int] | None = None) -> None:
        self.mapping = dict(mapping or {})
        """Consumer GPU to donor GPU."""
        self.stores: dict[int, Store] = {}
        self.allocations: dict[int, Allocation] = {}
        self.reclaiming: set[int] = set()
        self._next = 0

    def handle(self, now: int, message: Operation) -> Sent:
        """Carry one operation out and reply to its caller; `now` plays no part."""
        return [(message.source, _OPERATIONS[type(message)](self, message))]

    def wake_at(self) -> None:
        """Never: the release has no timers."""

    def _create(self, call: CreateStore) -> Reply:
        if call.store in self.stores:
            return Refused(f"store {call.store} exists")
        self.stores[call.store] = Store(call.address, call.bytes)
        return Done()

    def _resize(self, call: ResizeStore) -> Reply:
        store = self.stores.get(call.store)
        if store is None:
            return Refused(f"store {call.store} does not exist")
        if store.capacity + call.change < store.allocated:
            return Refused(f"store {call.store} has {store.allocated} bytes allocated")
        store.capacity += call.change
        return Done()

    def _drop(self, call: DropStore) -> Reply:
        store = self.stores.get(call.store)
        if store is None:
            return Refused(f"store {call.store} does not exist")
        if store.allocated:
            return Refused(f"store {call.store} has {store.allocated} bytes allocated")
        del self.stores[call.store]
        self.reclaiming.discard(call.store)
        return Done()

    def _allocate(self, call: Allocate) -> Reply:
        id = self.mapping.get(call.source)
        store = self.stores.get(id) if id is not None else None
        if id is None or store is None or id in self.reclaiming:
            return Allocated(None)
        if store.capacity - store.allocated < call.bytes:
            return Allocated(None)
        store.allocated += call.bytes
        self._next += 1
        self.allocations[self._next] = Allocation(self._next, id, store.address, call.bytes)
        return Allocated(self.allocations[self._next])

    def _free(self, call: FreeAllocation) -> Reply:
        allocation = self.allocations.pop(call.allocation, None)
        if allocation is None:
            return Refused(f"allocation {call.allocation} does not exist")
        self.stores[allocation.store].allocated -= allocation.bytes
        return Done()

    def _respond(self, call: Respond) -> Reply:
        held = (self.allocations[id] for id in call.allocations if id in self.allocations)
        return MustLeave(tuple(a.allocation for a in held if a.store in self.reclaiming))

    def _request(self, call: RequestReclaim) -> Reply:
        if call.store not in self.stores:
            return Refused(f"store {call.store} does not exist")
        self.reclaiming.add(call.store)
        return Done()

    def _end(self, call: EndReclaim) -> Reply:
        self.reclaiming.discard(call.store)
        return Done()

    def _status(self, call: ReclaimStatus) -> Reply:
        store = self.stores.get(call.store)
        if store is None:
            return Refused(f"store {call.store} does not exist")
        available = store.capacity - store.allocated
        return StoreStatus(store.capacity, available, store.capacity == available)

    def _map(self, call: AddMapping) -> Reply:
        self.mapping[call.consumer] = call.producer
        return Done()

    def _unmap(self, call: DeleteMapping) -> Reply:
        if self.mapping.get(call.consumer) != call.producer:
            return Refused(f"GPU {call.consumer} is not mapped to {call.producer}")
        del self.mapping[call.consumer]
        return Done()

    def check(self) -> None:
        """Assert that allocations sum to what stores say, and never exceed the capacity."""
        sums = dict.fromkeys(self.stores, 0)
        for allocation in self.allocations.values():
            sums[allocation.store] += allocation.bytes
        for id, store in self.stores.items():
            assert sums[id] == store.allocated <= store.capacity
        assert self.reclaiming <= self.stores.keys()


_OPERATIONS: dict[type, Callable[[Coordinator, Any], Reply]] = {
    CreateStore: Coordinator._create,
    ResizeStore: Coordinator._resize,
    DropStore: Coordinator._drop,
    Allocate: Coordinator._allocate,
    FreeAllocation: Coordinator._free,
    Respond: Coordinator._respond,
    RequestReclaim: Coordinator._request,
    EndReclaim: Coordinator._end,
    ReclaimStatus: Coordinator._status,
    AddMapping: Coordinator._map,
    DeleteMapping: Coordinator._unmap,
}
