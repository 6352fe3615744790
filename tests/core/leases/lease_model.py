"""A naive model of lent memory: who uses what, what was said, and what therefore must not happen."""

from dataclasses import dataclass, field

from aquasim.core.leases import (
    Assign,
    Closed,
    Consumer,
    ConsumerReport,
    Died,
    Donor,
    DonorReport,
    Evacuate,
    Extent,
    Free,
    Granted,
    Message,
    Process,
    Regained,
    Scrub,
)

Term = tuple[Process | None, Extent, int]
"""A lease in the whole history: (consumer, extent, epoch)."""


@dataclass
class Heard:
    """What one life of the coordinator was told: the newest report of each process, when, and who is dead."""

    lease_ns: int
    reports: dict[Process, DonorReport | ConsumerReport] = field(default_factory=dict)
    when: dict[Process, int] = field(default_factory=dict)
    dead: set[Process] = field(default_factory=set)
    now: int = 0
    offered: set[Term] = field(default_factory=set)
    began: dict[Term, int] = field(default_factory=dict)
    """When each lease was first seen as leased."""
    leaving: set[Term] = field(default_factory=set)
    """Leases that it has called back or revoked."""
    revoked: set[Term] = field(default_factory=set)
    overdue: set[Term] = field(default_factory=set)

    def hear(self, now: int, message: Message) -> None:
        """The coordinator is given a message at `now`."""
        self.now = now
        if isinstance(message, Died):
            self.dead.add(message.process)
            self.reports.pop(message.process, None)
        elif isinstance(message, DonorReport | ConsumerReport):
            me = message.donor if isinstance(message, DonorReport) else message.consumer
            before = self.reports.get(me)
            if me not in self.dead and (before is None or before.serial < message.serial):
                self.reports[me], self.when[me] = message, now

    def offer(self, term: Term) -> None:
        """The coordinator offers a lease: neither side is silent or dead, and the donor owes nothing."""
        consumer, extent, _ = term
        if term in self.offered:
            return
        self.offered.add(term)
        for me in (consumer, extent.donor):
            assert me in self.reports, "offered to or from the dead"
            assert self.now < self.when[me] + self.lease_ns, "offered to or from the silent"
        report = self.reports[extent.donor]
        assert isinstance(report, DonorReport)
        assert report.owed == 0, "offered what is owed"


@dataclass
class Model:
    """The truth, as engines and donors' tables have it."""

    users: dict[Extent, Term] = field(default_factory=dict)
    """What live consumers use."""
    dirty: dict[Extent, Term] = field(default_factory=dict)
    """What dead ones used, until it is scrubbed."""
    regained: set[Extent] = field(default_factory=set)
    begun: set[Term] = field(default_factory=set)
    told: set[Term] = field(default_factory=set)
    """Leases that their consumer was told to leave."""
    closed: set[Term] = field(default_factory=set)
    """Leases of which their consumer has said that they are over."""
    written: dict[tuple[Extent, int], Process] = field(default_factory=dict)
    """Whom a donor's table has ever named as holder of (extent, epoch)."""
    current: dict[Extent, tuple[int, Process | None]] = field(default_factory=dict)
    """What it names now."""
    donated: dict[Process, int] = field(default_factory=dict)
    back: dict[Process, int] = field(default_factory=dict)

    # --- what engines are told -------------------------------------------------------------------------------

    def usable(self, me: Process, term: Term, machine: Consumer) -> None:
        """A consumer's engine may use an extent from now on."""
        extent = term[1]
        assert term[0] == me
        assert extent not in self.users, "leased twice"
        assert extent not in self.dirty, "leased before it was scrubbed"
        assert extent not in self.regained, "leased after its donor had it back"
        assert term not in self.begun | self.closed, "leased again after it was closed"
        held = sum(machine.holds[e].bytes for e, t in self.users.items() if t[0] == me and t not in self.told)
        assert held < machine.want, "leased more than was wanted"
        self.users[extent] = term
        self.begun.add(term)

    def evacuate(self, me: Process, order: Evacuate) -> None:
        """A consumer's engine must leave."""
        term = (me, order.extent, order.epoch)
        assert self.users[order.extent] == term
        assert term not in self.told, "told to leave twice"
        self.told.add(term)

    def scrub(self, order: Scrub) -> None:
        """A donor's engine must scrub."""
        assert order.extent not in self.users, "scrubbed under a live consumer"

    def regain(self, me: Process, message: Regained) -> None:
        """A donor's engine has an extent back."""
        assert message.extent not in self.users, "back while a live consumer uses it"
        assert message.extent not in self.regained, "back twice"
        self.regained.add(message.extent)
        self.back[me] += message.bytes

    def kill(self, me: Process) -> None:
        """A process died; what it used is dirty."""
        for extent in [e for e, term in self.users.items() if term[0] == me]:
            self.dirty[extent] = self.users.pop(extent)

    # --- what is said ----------------------------------------------------------------------------------------

    def said(self, message: Message, live: set[Process], heard: Heard) -> None:
        """A message was sent: leases are granted as written, freed by word or death only, and not to the dead."""
        match message:
            case Granted(leases=leases):
                for lease in leases:
                    assert self.written[lease.extent, lease.epoch] == lease.owner, "granted, not written down"
            case Closed(consumer=consumer, extent=extent, epoch=epoch):
                term = (consumer, extent, epoch)
                assert self.users.get(extent) != term, "closed while in use"
                self.closed.add(term)
            case Free(extent=extent, epoch=epoch, consumer=consumer, scrub=scrub):
                term = (consumer, extent, epoch)
                assert term in self.closed or consumer not in live, "freed without a word or a death"
                assert scrub or term in self.closed, "freed unscrubbed without a word"
            case Assign(consumer=consumer, extents=extents):
                for extent, epoch in extents:
                    heard.offer((consumer, extent, epoch))

    def table(self, donor: Donor) -> None:
        """Look at a donor's table: epochs grow, one holder each, none after it ended, none before the scrubbing."""
        for extent, slab in donor.slabs.items():
            before = self.current.get(extent, (0, None))
            now = (slab.epoch, slab.owner)
            if now == before:
                continue
            self.current[extent] = now
            if slab.owner is None:
                assert slab.epoch == before[0], "an epoch changed without a holder"
                continue
            assert slab.epoch > before[0], "an epoch did not grow"
            assert before[1] is None, "a second holder"
            assert extent not in self.dirty, "lent before it was scrubbed"
            self.written[extent, slab.epoch] = slab.owner
