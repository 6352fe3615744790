"""Memory lent between processes: three machines that exchange frozen messages, and AQUA's released ones beside them.

`Coordinator`, `Donor` and `Consumer` each take `handle(now, message)` and answer with `(to, message)` pairs; the
simulator carries those over links, the runtime over a socket, and both hand what is addressed to `LOCAL` to the
machine's own engine. `wake_at()` says when a machine wants `Wake()`. Messages may be lost, repeated, delayed and
reordered, and any process may die. How it stays safe:

- The donor's table is the record of who holds an extent under which epoch. A lease is granted only after the donor
  has written it down, and ends only by the consumer's own word or by proof of its death.
- Donors and consumers report their whole state, numbered, with every heartbeat; the coordinator compares and
  repeats what is missing. So it keeps nothing that a restart could lose.
- A consumer never takes an (extent, epoch) again that it closed, however late a grant arrives.
- Expiry forbids new writes and nothing else: no memory moves because of a clock.

`aquasim.core.leases.faithful` has the same three roles with the behaviour of AQUA's released coordinator.
"""

from aquasim.core.leases.consumer import Consumer, Hold
from aquasim.core.leases.coordinator import Coordinator
from aquasim.core.leases.donor import Donor, Slab
from aquasim.core.leases.messages import (
    COORDINATOR,
    LOCAL,
    Assign,
    Cause,
    Closed,
    ConsumerReport,
    Died,
    Donate,
    DonorReport,
    Drain,
    Emptied,
    Evacuate,
    Extent,
    Free,
    Granted,
    Lease,
    Message,
    Overdue,
    Process,
    Reclaim,
    Regained,
    Row,
    Scrub,
    Scrubbed,
    Sent,
    Usable,
    Wake,
    Want,
    Watch,
)
from aquasim.core.leases.records import Record, State

__all__ = [
    "COORDINATOR",
    "LOCAL",
    "Assign",
    "Cause",
    "Closed",
    "Consumer",
    "ConsumerReport",
    "Coordinator",
    "Died",
    "Donate",
    "Donor",
    "DonorReport",
    "Drain",
    "Emptied",
    "Evacuate",
    "Extent",
    "Free",
    "Granted",
    "Hold",
    "Lease",
    "Message",
    "Overdue",
    "Process",
    "Reclaim",
    "Record",
    "Regained",
    "Row",
    "Scrub",
    "Scrubbed",
    "Sent",
    "Slab",
    "State",
    "Usable",
    "Wake",
    "Want",
    "Watch",
]
