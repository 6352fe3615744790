"""What coordinator, donors and consumers say to each other and to their own engines: immutable tuples.

Reports state levels (all extents, all leases, bytes owed, bytes wanted) and never differences, so that hearing one
twice, late or not at all does no harm. Times are integer nanoseconds.
"""

from typing import Literal, NamedTuple


class Process(NamedTuple):
    """One run of a program. A restart under the same name has a greater `run` and inherits nothing."""

    name: str
    run: int = 0


COORDINATOR = Process("coordinator")
"""Where the coordinator listens, whichever run of it."""
LOCAL = Process("local")
"""The engine, or for the coordinator the operating system, on the machine's own side. Never lost, never repeated."""


class Extent(NamedTuple):
    """A slab of a donor's memory, the unit of lending. A donor never uses a number twice."""

    donor: Process
    number: int


class Lease(NamedTuple):
    """The right of `owner` to an extent under `epoch`; new writes only before `expires` (coordinator's clock, ns)."""

    extent: Extent
    epoch: int
    bytes: int
    owner: Process
    expires: int


Cause = Literal["reclaim", "revoked", "orphaned"]
"""Why a lease ends: its donor wants the memory, its consumer fell silent, or its donor died."""


class Wake(NamedTuple):
    """The time that `wake_at` named has come. Any machine; harmless when too early."""


# --- donor's engine and donor -----------------------------------------------------------------------------


class Donate(NamedTuple):
    """Engine to donor: these extents, (number, bytes), are physically free and may be lent from now on."""

    extents: tuple[tuple[int, int], ...]


class Reclaim(NamedTuple):
    """Engine to donor: get this many bytes back, rounded up to whole extents; at most what was donated."""

    bytes: int


class Regained(NamedTuple):
    """Donor to engine: the extent is yours again and nobody can write to it."""

    extent: Extent
    bytes: int


class Scrub(NamedTuple):
    """Donor to engine: overwrite the extent, whose consumer died, and answer `Scrubbed`."""

    extent: Extent


class Scrubbed(NamedTuple):
    """Engine to donor: nothing of the dead consumer is left in the extent."""

    extent: Extent


# --- donor and coordinator --------------------------------------------------------------------------------


class Row(NamedTuple):
    """One extent in its donor's table: the last epoch, who holds it (None: nobody), and whether it may be lent."""

    extent: Extent
    bytes: int
    epoch: int
    owner: Process | None
    ready: bool


class DonorReport(NamedTuple):
    """Donor to coordinator: the whole table, and the bytes it still wants back. Greater `serial` is newer."""

    donor: Process
    serial: int
    owed: int
    rows: tuple[Row, ...]


class Assign(NamedTuple):
    """Coordinator to donor: write down that `consumer` holds these (extent, epoch). Answered by a report."""

    consumer: Process
    extents: tuple[tuple[Extent, int], ...]


class Free(NamedTuple):
    """Coordinator to donor: `consumer` closed its lease, or is proven dead (`scrub`), under exactly this epoch."""

    extent: Extent
    epoch: int
    consumer: Process
    scrub: bool


# --- consumer's engine and consumer -----------------------------------------------------------------------


class Want(NamedTuple):
    """Engine to consumer: the bytes it would like to lease in all; what is missing stays asked for."""

    bytes: int


class Usable(NamedTuple):
    """Consumer to engine: a new lease. Ask `may_write` before each write."""

    lease: Lease


class Evacuate(NamedTuple):
    """Consumer to engine: no new writes; move the pages away, wait for copies, unmap, then say `Emptied`."""

    extent: Extent
    epoch: int
    cause: Cause


class Emptied(NamedTuple):
    """Engine to consumer: nothing refers to the extent any more. Without an `Evacuate`: a voluntary release."""

    extent: Extent
    epoch: int


# --- consumer and coordinator -----------------------------------------------------------------------------


class ConsumerReport(NamedTuple):
    """Consumer to coordinator: all (extent, epoch, bytes) it holds, the bytes it wants in all; renews its leases."""

    consumer: Process
    serial: int
    want: int
    holds: tuple[tuple[Extent, int, int], ...]


class Granted(NamedTuple):
    """Coordinator to consumer: these leases are its own, new or renewed."""

    leases: tuple[Lease, ...]


class Drain(NamedTuple):
    """Coordinator to consumer: stop writing to these (extent, epoch), move the pages away, close."""

    leases: tuple[tuple[Extent, int], ...]
    cause: Cause


class Closed(NamedTuple):
    """Consumer to coordinator: it does not hold (extent, epoch) and never will again."""

    consumer: Process
    extent: Extent
    epoch: int


# --- coordinator and its operating system -----------------------------------------------------------------


class Watch(NamedTuple):
    """Coordinator to operating system: say `Died` once this process is dead, at once if it already is."""

    process: Process


class Died(NamedTuple):
    """Operating system to coordinator: proof (a pidfd, say) that the process is dead. Silence is no proof."""

    process: Process


class Overdue(NamedTuple):
    """Coordinator to operator: a live consumer has not closed this lease by the drain deadline. Said once."""

    extent: Extent
    epoch: int
    consumer: Process


Message = (
    Wake
    | Donate
    | Reclaim
    | Regained
    | Scrub
    | Scrubbed
    | DonorReport
    | Assign
    | Free
    | Want
    | Usable
    | Evacuate
    | Emptied
    | ConsumerReport
    | Granted
    | Drain
    | Closed
    | Watch
    | Died
    | Overdue
)
Sent = list[tuple[Process, Message]]
"""What a machine answers: receiver and message."""
