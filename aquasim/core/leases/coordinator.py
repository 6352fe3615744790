"""The coordinator's machine: matches wants with free extents, and sees to it that what must end does end.

It answers reports: whatever a donor or consumer lacks is said again in reply to its next report, so there are no
timers but for expiry and drain deadlines, and a restarted coordinator is complete once everybody has reported.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aquasim.core.leases.messages import (
    LOCAL,
    Assign,
    Closed,
    ConsumerReport,
    Died,
    DonorReport,
    Drain,
    Extent,
    Free,
    Granted,
    Lease,
    Message,
    Overdue,
    Process,
    Row,
    Sent,
    Wake,
    Watch,
)
from aquasim.core.leases.records import (
    CAUSES,
    COMING,
    HELD,
    LEAVING,
    ConsumerView,
    DonorView,
    Record,
    State,
    choices,
    picks,
    total,
)
from aquasim.core.leases.timers import Timers


class Coordinator:
    """Grants, renews, reclaims. Events in, messages out; `now` is its own clock (ns).

    That clock must not go back when another takes its place: a machine's monotonic clock does not.

    `near` maps a consumer's name to the only donors it may use, nearest first; others use any donor.

    Raises:
        ValueError: `lease_ns` or `drain_ns` is not positive.
    """

    def __init__(
        self,
        *,
        near: Mapping[str, tuple[str, ...]] | None = None,
        lease_ns: int = 10_000_000_000,
        drain_ns: int = 5_000_000_000,
    ) -> None:
        if lease_ns < 1 or drain_ns < 1:
            raise ValueError(f"lease_ns is {lease_ns} and drain_ns {drain_ns}; both must be at least 1")
        self.near = dict(near or {})
        self.lease_ns = lease_ns
        self.drain_ns = drain_ns
        self.records: dict[Extent, Record] = {}
        self.donors: dict[Process, DonorView] = {}
        self.consumers: dict[Process, ConsumerView] = {}
        self.now = 0
        self._timers = Timers(self.records)
        self._watched: set[Process] = set()
        self._dead: set[Process] = set()
        self._sent: Sent = []

    def handle(self, now: int, message: Message) -> Sent:
        """Take one message at time `now` (ns, never decreasing) and return what is to be sent."""
        self.now = now
        self._sent = []
        self._expire()
        _HANDLERS[type(message)](self, message)
        return self._sent

    def wake_at(self) -> int | None:
        """When the next lease expires or the next drain is overdue (ns), or None."""
        return self._timers.first()

    def _wake(self, message: Wake) -> None:
        """Do nothing: `handle` looks at the clock before every message."""

    def _expire(self) -> None:
        passed = self._timers.passed(self.now)
        for extent in [e for e in self.records if e in passed] if passed else ():
            record = self.records[extent]
            if record.state is State.LEASED:
                self._leave(State.REVOKED, [extent])
            else:
                assert record.owner is not None
                record.deadline = None
                self._send(LOCAL, Overdue(extent, record.epoch, record.owner))

    def _donor_report(self, report: DonorReport) -> None:
        donor = report.donor
        if donor in self._dead:
            return
        self._watch(donor)
        view = self.donors.setdefault(donor, DonorView())
        if report.serial <= view.serial:
            return
        view.serial, view.heard, view.owed = report.serial, self.now, report.owed
        listed = {row.extent for row in report.rows}
        for extent in [e for e in self.records if e.donor == donor and e not in listed]:
            del self.records[extent]
        for row in report.rows:
            self._compare(row)
        self._reclaim(donor, view)
        self._grant()

    def _compare(self, row: Row) -> None:
        """Bring one record in line with its donor's, which is the truth."""
        record = self.records.get(row.extent)
        if row.owner is not None:
            self._compare_held(row, row.owner, record)
        elif record is not None and record.state is State.OFFERED and record.epoch > row.epoch and row.ready:
            self._assign(row.extent, record)
        else:
            state = State.FREE if row.ready else State.CLOSED
            self.records[row.extent] = Record(row.bytes, row.epoch, state)

    def _compare_held(self, row: Row, owner: Process, record: Record | None) -> None:
        same = record is not None and record.epoch == row.epoch and record.owner == owner
        if record is not None and same and record.state is State.CLOSED:
            self._free(row.extent, record)
        elif record is None or not same or record.state not in HELD:
            self._watch(owner)
            expires = self.now + self.lease_ns
            self.records[row.extent] = Record(row.bytes, row.epoch, State.LEASED, owner, expires)
            self._timers.begin(row.extent, expires)
            self._send(owner, Granted((Lease(row.extent, row.epoch, row.bytes, owner, expires),)))

    def _reclaim(self, donor: Process, view: DonorView) -> None:
        """Have enough leases of a donor drained to cover what it is owed, counting those already on their way."""
        own = {e: r for e, r in self.records.items() if e.donor == donor} if view.owed else {}
        missing = view.owed - total(r for r in own.values() if r.state in LEAVING)
        self._leave(State.DRAINING, picks(own, missing))

    def _leave(self, state: State, extents: Iterable[Extent]) -> None:
        """Tell the holders of these extents to drain them, and why."""
        told: dict[Process, list[tuple[Extent, int]]] = {}
        for extent in extents:
            record = self.records[extent]
            assert record.owner is not None
            if record.state not in CAUSES:  # else it was told before, and its deadline stands
                record.deadline = self.now + self.drain_ns
                self._timers.begin(extent, record.deadline)
            record.state = state
            told.setdefault(record.owner, []).append((extent, record.epoch))
        for owner, leases in told.items():
            self._send(owner, Drain(tuple(leases), CAUSES[state]))

    def _assign(self, extent: Extent, record: Record) -> None:
        assert record.owner is not None
        self._send(extent.donor, Assign(record.owner, ((extent, record.epoch),)))

    def _free(self, extent: Extent, record: Record) -> None:
        assert record.owner is not None
        self._send(extent.donor, Free(extent, record.epoch, record.owner, record.scrub))

    def _consumer_report(self, report: ConsumerReport) -> None:
        consumer = report.consumer
        if consumer in self._dead:
            return
        self._watch(consumer)
        view = self.consumers.setdefault(consumer, ConsumerView())
        if report.serial <= view.serial:
            return
        view.serial, view.heard, view.want, view.asks = report.serial, self.now, report.want, True
        for extent, epoch, size in report.holds:
            self._claim(consumer, extent, epoch, size)
        self._renew(consumer)
        self._grant()

    def _claim(self, consumer: Process, extent: Extent, epoch: int, size: int) -> None:
        """Compare one lease that a consumer lists with the record of its extent."""
        record = self.records.get(extent)
        if record is not None and record.owner == consumer and record.epoch == epoch:
            return
        if extent.donor not in self.donors and (record is None or record.epoch < epoch):
            self.records[extent] = Record(size, epoch, State.CLAIMED, consumer)
            self._watch(extent.donor)
        else:
            self._send(consumer, Drain(((extent, epoch),), "revoked"))

    def _renew(self, consumer: Process) -> None:
        """Say again all that concerns a consumer, listed or not: either word may have been lost; renew its leases."""
        leases = []
        for extent, record in self.records.items():
            if record.owner != consumer:
                continue
            if record.state in CAUSES:
                self._send(consumer, Drain(((extent, record.epoch),), CAUSES[record.state]))
            elif record.state is State.LEASED:
                if self._recent(self.donors[extent.donor]):  # a silent donor's leases age out
                    record.expires = self.now + self.lease_ns
                leases.append(Lease(extent, record.epoch, record.bytes, consumer, record.expires))
        if leases:
            self._send(consumer, Granted(tuple(leases)))

    def _closed(self, message: Closed) -> None:
        record = self.records.get(message.extent)
        if record is None or record.owner != message.consumer or record.epoch != message.epoch:
            return
        if record.state is State.LEASED and message.consumer in self.consumers:
            # It closed what nobody asked it to close: no more before its next report, or the two would ping-pong.
            self.consumers[message.consumer].asks = False
        self._end(message.extent, record, scrub=record.scrub)
        self._grant()

    def _end(self, extent: Extent, record: Record, *, scrub: bool) -> None:
        """A lease is over, by its consumer's word or death: have the donor write it down."""
        if record.state in (State.ORPHANED, State.CLAIMED):
            del self.records[extent]
            return
        record.state, record.deadline, record.scrub = State.CLOSED, None, scrub
        self._free(extent, record)

    def _died(self, message: Died) -> None:
        dead = message.process
        self._dead.add(dead)
        self._watched.discard(dead)
        self.donors.pop(dead, None)
        self.consumers.pop(dead, None)
        for extent, record in list(self.records.items()):
            if record.owner == dead:
                self._end(extent, record, scrub=True)
        for extent in [e for e in self.records if e.donor == dead]:
            if self.records[extent].state in (State.FREE, State.OFFERED, State.CLOSED):
                del self.records[extent]
        self._leave(State.ORPHANED, [e for e in self.records if e.donor == dead])

    def _grant(self) -> None:
        """Offer free extents to those who want more, least served first; what is missing waits for more."""
        wants = self._wants() if any(r.state is State.FREE for r in self.records.values()) else []
        if not wants:
            return
        free = {e: r for e, r in self.records.items() if r.state is State.FREE and self._lends(e.donor)}
        for _, consumer, missing in sorted(wants):
            batches: dict[Process, list[tuple[Extent, int]]] = {}
            for extent in choices(free, consumer, self.near):
                if missing <= 0:
                    break
                record = free.pop(extent)
                missing -= record.bytes
                record.state, record.epoch, record.owner = State.OFFERED, record.epoch + 1, consumer
                batches.setdefault(extent.donor, []).append((extent, record.epoch))
            for donor, extents in batches.items():
                self._send(donor, Assign(consumer, tuple(extents)))

    def _wants(self) -> list[tuple[int, Process, int]]:
        """Return (bytes held or offered, consumer, bytes missing) of consumers heard of late."""
        held = dict.fromkeys(self.consumers, 0)
        for record in self.records.values():
            if record.state in COMING and record.owner in held:
                held[record.owner] += record.bytes
        asking = [(c, view) for c, view in self.consumers.items() if view.asks and self._recent(view)]
        return [(held[c], c, view.want - held[c]) for c, view in asking if view.want > held[c]]

    def _lends(self, donor: Process) -> bool:
        view = self.donors[donor]
        return view.owed == 0 and self._recent(view)

    def _recent(self, view: DonorView | ConsumerView) -> bool:
        return self.now < view.heard + self.lease_ns

    def _send(self, to: Process, message: Message) -> None:
        self._sent.append((to, message))

    def _watch(self, process: Process) -> None:
        if process not in self._watched:
            self._watched.add(process)
            self._send(LOCAL, Watch(process))

    def check(self) -> None:
        """Assert every invariant of the records: owners where there must be, donors known, processes watched."""
        for extent, record in self.records.items():
            record.check()
            self._timers.check(extent)
            assert (extent.donor in self.donors) == (record.state not in (State.ORPHANED, State.CLAIMED))
            assert record.owner is None or record.state is State.CLOSED or record.owner in self._watched
        assert self._watched >= self.donors.keys() | self.consumers.keys()


_HANDLERS: dict[type, Callable[[Coordinator, Any], None]] = {
    Wake: Coordinator._wake,
    DonorReport: Coordinator._donor_report,
    ConsumerReport: Coordinator._consumer_report,
    Closed: Coordinator._closed,
    Died: Coordinator._died,
}
