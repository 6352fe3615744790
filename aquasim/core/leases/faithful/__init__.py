"""AQUA's released coordinator, donor protocol and consumer policy, behaviour and gaps included.

The same three roles as in `aquasim.core.leases`, with the release's own operations. Accounting only, and
all-or-nothing: no partial grant, no second donor, no eviction, no expiry, no heartbeat; a dead consumer's bytes are
never freed. A donor's whole lease comes back or nothing does. GPUs are known by physical id.

Source: AQUA's released code.
"""

from aquasim.core.leases.faithful.consumer import Consumer, Held
from aquasim.core.leases.faithful.coordinator import Coordinator, Store
from aquasim.core.leases.faithful.donor import Donor
from aquasim.core.leases.faithful.messages import (
    COORDINATOR_ID,
    LOCAL_ID,
    AddMapping,
    Allocate,
    Allocated,
    Allocation,
    Create,
    CreateStore,
    DeleteMapping,
    Done,
    DropStore,
    EndReclaim,
    FreeAllocation,
    Message,
    Move,
    Moved,
    MustLeave,
    Offer,
    Operation,
    Poll,
    ReclaimStatus,
    Refused,
    Reply,
    RequestReclaim,
    ResizeStore,
    Respond,
    Returned,
    Sent,
    StartReclaim,
    StoreStatus,
)

__all__ = [
    "COORDINATOR_ID",
    "LOCAL_ID",
    "AddMapping",
    "Allocate",
    "Allocated",
    "Allocation",
    "Consumer",
    "Coordinator",
    "Create",
    "CreateStore",
    "DeleteMapping",
    "Done",
    "Donor",
    "DropStore",
    "EndReclaim",
    "FreeAllocation",
    "Held",
    "Message",
    "Move",
    "Moved",
    "MustLeave",
    "Offer",
    "Operation",
    "Poll",
    "ReclaimStatus",
    "Refused",
    "Reply",
    "RequestReclaim",
    "ResizeStore",
    "Respond",
    "Returned",
    "Sent",
    "StartReclaim",
    "Store",
    "StoreStatus",
]
