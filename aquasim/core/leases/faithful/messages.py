"""The operations of AQUA's released coordinator as messages, and what passes between a machine and its engine.

Every operation names its caller's physical GPU (`source`), as the release does in a header. The carrier is reliable
and in order (the release speaks HTTP and blocks): one reply per operation, none lost, none repeated.
"""

from typing import NamedTuple

COORDINATOR_ID = -1
LOCAL_ID = -2
"""Receivers that are no GPU: the coordinator, and the machine's own engine."""


class CreateStore(NamedTuple):
    """POST /lease: a donor's store comes to be; it must not exist."""

    source: int
    store: int
    address: str
    bytes: int


class ResizeStore(NamedTuple):
    """PUT /lease: the store's capacity changes by `change` bytes, negative to take back."""

    source: int
    store: int
    change: int


class DropStore(NamedTuple):
    """DELETE /unlease: the store is gone."""

    source: int
    store: int


class Allocate(NamedTuple):
    """POST /nv_allocate: all of `bytes` in the store that the caller is mapped to, or nothing. Reply `Allocated`."""

    source: int
    bytes: int


class FreeAllocation(NamedTuple):
    """DELETE /nv_free: release a reservation."""

    source: int
    allocation: int


class Respond(NamedTuple):
    """POST /responsive_reclaim: which of these allocations must leave? Reply `MustLeave`."""

    source: int
    allocations: tuple[int, ...]


class RequestReclaim(NamedTuple):
    """POST /reclaim_request: the donor wants the store back; no new allocations on it."""

    source: int
    store: int


class EndReclaim(NamedTuple):
    """DELETE /reclaim_request: the store may be allocated from again."""

    source: int
    store: int


class ReclaimStatus(NamedTuple):
    """POST /reclaim_status. Reply `StoreStatus`."""

    source: int
    store: int


class AddMapping(NamedTuple):
    """/mapping of the later release: the consumer GPU allocates from this donor GPU only."""

    source: int
    producer: int
    consumer: int


class DeleteMapping(NamedTuple):
    """/mapping of the later release: the consumer GPU allocates from nowhere."""

    source: int
    producer: int
    consumer: int


class Done(NamedTuple):
    """The operation took effect."""


class Refused(NamedTuple):
    """The operation changed nothing, and why."""

    reason: str


class Allocation(NamedTuple):
    """A reservation of bytes in a store."""

    allocation: int
    store: int
    address: str
    bytes: int


class Allocated(NamedTuple):
    """The reservation, or None (the release's null): no mapping, no store, under reclaim, or too small."""

    allocation: Allocation | None


class MustLeave(NamedTuple):
    """Those of the caller's allocations whose store is under reclaim."""

    allocations: tuple[int, ...]


class StoreStatus(NamedTuple):
    """Capacity and unallocated bytes; `can_reclaim` if and only if they are equal."""

    capacity: int
    available: int
    can_reclaim: bool


# --- machine and engine -----------------------------------------------------------------------------------


class Create(NamedTuple):
    """Consumer's engine: new tensors, (name, bytes), allocated for as one."""

    tensors: tuple[tuple[str, int], ...]


class Move(NamedTuple):
    """To the consumer's engine: copy these tensors to the store at `address` ("" is pinned host memory); blocks."""

    tensors: tuple[str, ...]
    bytes: int
    address: str


class Moved(NamedTuple):
    """Consumer's engine: the last `Move` is complete."""


class Offer(NamedTuple):
    """Donor's engine: these bytes are physically free and may be leased."""

    bytes: int


class StartReclaim(NamedTuple):
    """Donor's engine: the whole lease is wanted back."""


class Poll(NamedTuple):
    """Donor's engine, on each inform call: is it back?"""


class Returned(NamedTuple):
    """To the donor's engine: the whole lease came back; grow the cache by as much."""

    bytes: int


Operation = (
    CreateStore
    | ResizeStore
    | DropStore
    | Allocate
    | FreeAllocation
    | Respond
    | RequestReclaim
    | EndReclaim
    | ReclaimStatus
    | AddMapping
    | DeleteMapping
)
Reply = Done | Refused | Allocated | MustLeave | StoreStatus
Local = Create | Move | Moved | Offer | StartReclaim | Poll | Returned
Message = Operation | Reply | Local
Sent = list[tuple[int, Message]]
"""What a machine answers: receiver (a physical GPU id, or one of the two above) and message."""
