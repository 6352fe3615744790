"""What the coordinator knows: one record per extent, one view per donor and consumer. All of it can be re-learnt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from aquasim.core.leases.messages import Cause, Extent, Process


class State(Enum):
    """Where an extent stands in the coordinator's eyes."""

    FREE = auto()
    """Its donor says that nobody holds it."""
    OFFERED = auto()
    """Its donor has been asked to write a lease down and has not answered."""
    CLAIMED = auto()
    """A consumer says that it holds it; its donor has not been heard (the coordinator restarted)."""
    LEASED = auto()
    """Held, and renewed."""
    DRAINING = auto()
    """Its donor wants it; the consumer has been told to leave."""
    REVOKED = auto()
    """Its consumer fell silent until the lease expired: no new writes, ever, but still its memory."""
    ORPHANED = auto()
    """Its donor died: the consumer has been told to leave."""
    CLOSED = auto()
    """Its consumer closed it or died; its donor has not said that it is ready to be lent."""


HELD = frozenset({State.LEASED, State.DRAINING, State.REVOKED})
CAUSES: dict[State, Cause] = {
    State.DRAINING: "reclaim",
    State.REVOKED: "revoked",
    State.ORPHANED: "orphaned",
}
COMING = (State.OFFERED, State.CLAIMED, State.LEASED)
LEAVING = frozenset({State.DRAINING, State.REVOKED, State.CLOSED})


@dataclass(slots=True)
class Record:
    """One extent: size (bytes), last epoch, state, holder, and times (ns)."""

    bytes: int
    epoch: int
    state: State
    owner: Process | None = None
    expires: int = 0
    deadline: int | None = None
    """When a drain becomes overdue; None: not draining, or already said."""
    scrub: bool = False
    """Its holder died."""

    def check(self) -> None:
        """Assert that it has an owner where there must be one, and a deadline only where somebody leaves."""
        assert self.owner is not None or self.state in (State.FREE, State.CLOSED)
        assert self.owner is None or self.state is not State.FREE
        assert self.deadline is None or self.state in CAUSES


@dataclass(slots=True)
class DonorView:
    """The last report of a donor: its serial, when it came, and the bytes owed."""

    serial: int = 0
    heard: int = 0
    owed: int = 0


@dataclass(slots=True)
class ConsumerView:
    """The last report of a consumer: serial, when it came, bytes wanted in all, and whether they still are."""

    serial: int = 0
    heard: int = 0
    want: int = 0
    asks: bool = False


def choices(
    free: Mapping[Extent, Record], consumer: Process, near: Mapping[str, tuple[str, ...]]
) -> list[Extent]:
    """Order the free extents for a consumer: mapped donors as mapped, nearest first; without a map the freest first.

    A consumer named in `near` gets nothing from other donors. Ties go by donor, then extent number.
    """
    mapped = near.get(consumer.name)
    spare: dict[Process, int] = {}
    for extent, record in free.items():
        spare[extent.donor] = spare.get(extent.donor, 0) + record.bytes

    def rank(extent: Extent) -> tuple[int, int, Extent]:
        place = mapped.index(extent.donor.name) if mapped is not None else 0
        return place, -spare[extent.donor], extent

    return sorted((e for e in free if mapped is None or e.donor.name in mapped), key=rank)


def picks(records: Mapping[Extent, Record], missing: int) -> list[Extent]:
    """Choose leases to drain until `missing` bytes are covered: first from the consumers that hold most.

    Ties go by extent, so the choice is the same everywhere.
    """
    leased = {e: r for e, r in records.items() if r.state is State.LEASED}
    held: dict[Process | None, int] = {}
    for record in leased.values():
        held[record.owner] = held.get(record.owner, 0) + record.bytes
    chosen: list[Extent] = []
    for extent in sorted(leased, key=lambda e: (-held[leased[e].owner], e)):
        if missing <= 0:
            break
        chosen.append(extent)
        missing -= leased[extent].bytes
    return chosen


def total(records: Iterable[Record]) -> int:
    """Sum sizes (bytes)."""
    return sum(record.bytes for record in records)
