"""The donor's machine: the table that says who holds which extent. It outlives every coordinator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aquasim.core.leases.messages import (
    COORDINATOR,
    LOCAL,
    Assign,
    Donate,
    DonorReport,
    Extent,
    Free,
    Message,
    Process,
    Reclaim,
    Regained,
    Row,
    Scrub,
    Scrubbed,
    Sent,
    Wake,
)


@dataclass(slots=True)
class Slab:
    """One donated extent: its size, last epoch, holder, and whether a dead consumer's bytes are still in it."""

    bytes: int
    epoch: int = 0
    owner: Process | None = None
    dirty: bool = False


class Donor:
    """Lends extents and takes them back. Events in, messages out; `now` is its own clock (ns).

    An extent that nobody holds goes back to the engine as soon as bytes are owed, without asking: the table here
    decides, and the coordinator learns of it from the report.

    Raises:
        ValueError: `heartbeat_ns` is not positive.
    """

    def __init__(self, me: Process, *, heartbeat_ns: int = 1_000_000_000) -> None:
        if heartbeat_ns < 1:
            raise ValueError(f"heartbeat_ns is {heartbeat_ns}; it must be at least 1")
        self.me = me
        self.heartbeat_ns = heartbeat_ns
        self.slabs: dict[Extent, Slab] = {}
        self.owed = 0
        """Bytes still to come back."""
        self._serial = 0
        self._beat_at = 0
        self._used = -1

    def handle(self, now: int, message: Message) -> Sent:
        """Take one message at time `now` (ns, never decreasing) and return what is to be sent."""
        return _HANDLERS[type(message)](self, now, message)

    def wake_at(self) -> int:
        """When the next heartbeat is due (ns)."""
        return self._beat_at

    def _report(self, now: int) -> Sent:
        self._serial += 1
        self._beat_at = now + self.heartbeat_ns
        rows = tuple(
            Row(extent, slab.bytes, slab.epoch, slab.owner, slab.owner is None and not slab.dirty)
            for extent, slab in self.slabs.items()
        )
        return [(COORDINATOR, DonorReport(self.me, self._serial, self.owed, rows))]

    def _wake(self, now: int, message: Wake) -> Sent:
        return self._report(now) if now >= self._beat_at else []

    def _donate(self, now: int, message: Donate) -> Sent:
        for number, size in message.extents:
            assert number > self._used, f"extent {number} of {self.me.name} does not follow {self._used}"
            assert size > 0, f"extent {number} of {self.me.name} has {size} bytes"
            self._used = number
            self.slabs[Extent(self.me, number)] = Slab(size)
        return self._regain() + self._report(now)

    def _reclaim(self, now: int, message: Reclaim) -> Sent:
        assert message.bytes >= 0, f"reclaim of {message.bytes} bytes"
        self.owed = min(self.owed + message.bytes, sum(slab.bytes for slab in self.slabs.values()))
        return self._regain() + self._report(now)

    def _regain(self) -> Sent:
        """Hand extents that nobody holds back to the engine, lowest number first, while bytes are owed."""
        sent: Sent = []
        for extent, slab in list(self.slabs.items()):
            if self.owed and slab.owner is None:
                del self.slabs[extent]
                self.owed = max(0, self.owed - slab.bytes)
                sent.append((LOCAL, Regained(extent, slab.bytes)))
        return sent

    def _assign(self, now: int, message: Assign) -> Sent:
        for extent, epoch in message.extents:
            slab = self.slabs.get(extent)
            # An older epoch is a delayed offer; a taken extent stays with whom it has. The report tells either way.
            if slab is not None and slab.owner is None and not slab.dirty and epoch > slab.epoch:
                slab.epoch, slab.owner = epoch, message.consumer
        return self._report(now)

    def _free(self, now: int, message: Free) -> Sent:
        extent, epoch, consumer, scrub = message
        slab = self.slabs.get(extent)
        if slab is None or slab.owner != consumer or slab.epoch != epoch:
            return []
        slab.owner, slab.dirty = None, scrub
        sent = self._regain()
        if slab.dirty and extent in self.slabs:
            sent.append((LOCAL, Scrub(extent)))
        return sent + self._report(now)

    def _scrubbed(self, now: int, message: Scrubbed) -> Sent:
        slab = self.slabs.get(message.extent)
        if slab is None or not slab.dirty:
            return []
        slab.dirty = False
        return self._report(now)

    def check(self) -> None:
        """Assert every invariant of the table: own extents, no dirty extent lent, nothing kept that is owed."""
        donated = 0
        for extent, slab in self.slabs.items():
            assert extent.donor == self.me
            assert extent.number <= self._used
            assert slab.owner is None or (slab.epoch > 0 and not slab.dirty)
            assert slab.owner is not None or self.owed == 0
            donated += slab.bytes
        assert 0 <= self.owed <= donated


_HANDLERS: dict[type, Callable[[Donor, int, Any], Sent]] = {
    Wake: Donor._wake,
    Donate: Donor._donate,
    Reclaim: Donor._reclaim,
    Assign: Donor._assign,
    Free: Donor._free,
    Scrubbed: Donor._scrubbed,
}
