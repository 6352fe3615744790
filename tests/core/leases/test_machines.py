"""Donor and consumer, each alone, against whatever a broken world may tell them."""

from dataclasses import replace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.leases import (
    Assign,
    Closed,
    Consumer,
    Donate,
    Donor,
    Drain,
    Emptied,
    Evacuate,
    Extent,
    Free,
    Granted,
    Lease,
    Message,
    Process,
    Reclaim,
    Regained,
    Scrub,
    Scrubbed,
    Usable,
    Want,
)

D0, C0, C1 = (Process(name) for name in ("d0", "c0", "c1"))
WHERE = st.builds(Extent, st.just(D0), st.integers(0, 1))
EPOCH = st.integers(1, 3)
WHO = st.sampled_from([C0, C1])

TO_DONOR = st.one_of(
    st.tuples(WHERE, st.booleans()),  # free it under its true holder and epoch
    st.builds(Assign, WHO, st.lists(st.tuples(WHERE, EPOCH), min_size=1, max_size=2).map(tuple)),
    st.builds(Free, WHERE, EPOCH, WHO, st.booleans()),
    st.builds(Scrubbed, WHERE),
    st.builds(Reclaim, st.integers(0, 2)),
)


class Table:
    """What a donor's table must be, rule by rule."""

    def __init__(self) -> None:
        self.rows: dict[Extent, tuple[int, Process | None, bool]] = {}
        self.owed = 0

    def resolve(self, message: Message | tuple[Extent, bool]) -> Message:
        """Return the message that frees an extent under its true holder and epoch, where that is what is meant."""
        if type(message) is not tuple:
            return cast(Message, message)
        extent, scrub = cast(tuple[Extent, bool], message)
        epoch, owner, _ = self.rows.get(extent, (0, None, False))
        return Free(extent, epoch, owner or C0, scrub)

    def tell(self, message: Message) -> None:
        """Do what a message asks for, if it may."""
        match message:
            case Assign(consumer=consumer, extents=extents):
                for extent, epoch in extents:
                    last, owner, dirty = self.rows.get(extent, (99, None, False))
                    if owner is None and not dirty and epoch > last:
                        self.rows[extent] = (epoch, consumer, False)
            case Free(extent=extent, epoch=epoch, consumer=consumer, scrub=scrub):
                if self.rows.get(extent, ())[:2] == (epoch, consumer):
                    self.rows[extent] = (epoch, None, scrub)
            case Scrubbed(extent=extent):
                if extent in self.rows:
                    epoch, owner, _ = self.rows[extent]
                    self.rows[extent] = (epoch, owner, False)
            case Reclaim(bytes=size):
                self.owed = min(len(self.rows), self.owed + size)
        for extent in sorted(self.rows):
            if self.owed and self.rows[extent][1] is None:
                del self.rows[extent]
                self.owed -= 1


@settings(max_examples=400, deadline=None)
@given(st.lists(TO_DONOR, max_size=25))
def test_a_donors_table_changes_by_the_rules_alone(messages: list[Message | tuple[Extent, bool]]) -> None:
    """Lent if free, clean and under a newer epoch; freed by holder and epoch; scrubbed and regained once."""
    donor, table = Donor(D0), Table()
    donor.handle(0, Donate(((0, 1), (1, 1))))
    table.rows = {Extent(D0, number): (0, None, False) for number in (0, 1)}
    for given_message in messages:
        message = table.resolve(given_message)
        before = dict(table.rows)
        table.tell(message)
        told = [answer for _, answer in donor.handle(0, message)]
        donor.check()
        assert {e: (s.epoch, s.owner, s.dirty) for e, s in donor.slabs.items()} == table.rows
        assert donor.owed == table.owed
        assert {m.extent for m in told if isinstance(m, Regained)} == before.keys() - table.rows.keys()
        dirty = {e for e, row in table.rows.items() if row[2] and not before[e][2]}
        assert {m.extent for m in told if isinstance(m, Scrub)} == dirty


LEASES = st.builds(Lease, WHERE, EPOCH, st.just(1), st.just(C0), st.integers(0, 30))
TO_CONSUMER = st.one_of(
    st.builds(Granted, st.lists(LEASES, min_size=1, max_size=2).map(tuple)),
    st.builds(
        Drain, st.lists(st.tuples(WHERE, EPOCH), min_size=1, max_size=2).map(tuple), st.just("reclaim")
    ),
    st.builds(Emptied, WHERE, EPOCH),
    st.builds(Want, st.integers(0, 2)),
)
Term = tuple[Extent, int]


class Life:
    """Every lease a consumer was ever told of, and what became of it."""

    def __init__(self) -> None:
        self.begun: set[Term] = set()
        self.closed: set[Term] = set()
        self.left: set[Term] = set()
        self.expires: dict[Term, int] = {}

    def hear(self, consumer: Consumer, answer: Message) -> None:
        """Check an answer: a lease begins once and never after it was closed; one is left once, and then closed."""
        match answer:
            case Usable(lease=lease):
                term = (lease.extent, lease.epoch)
                assert term not in self.begun | self.closed
                self.begun.add(term)
                self.expires[term] = lease.expires
            case Closed(extent=extent, epoch=epoch):
                hold = consumer.holds.get(extent)
                assert hold is None or hold.epoch > epoch
                self.closed.add((extent, epoch))
            case Evacuate(extent=extent, epoch=epoch):
                assert (extent, epoch) in self.begun - self.closed - self.left
                self.left.add((extent, epoch))


@settings(max_examples=400, deadline=None)
@given(st.lists(TO_CONSUMER, max_size=25))
def test_a_consumer_keeps_its_word(messages: list[Message]) -> None:
    """Closed is for ever, draining for good, expiry never shrinks, no more taken than wanted, drains are answered."""
    consumer, life = Consumer(C0, margin_ns=0), Life()
    consumer.handle(0, Want(2))
    for message in messages:
        before = {e: replace(h) for e, h in consumer.holds.items()}
        leased = consumer.leased
        answers = [answer for _, answer in consumer.handle(0, message)]
        consumer.check()
        for answer in answers:
            life.hear(consumer, answer)
        assert life.begun - life.closed == {(e, h.epoch) for e, h in consumer.holds.items()}
        assert consumer.leased <= max(leased, consumer.want)
        if isinstance(message, Emptied):
            gone = before.get(message.extent)
            assert bool(answers) == (gone is not None and gone.epoch == message.epoch)
        if isinstance(message, Drain):
            for extent, epoch in message.leases:
                hold = consumer.holds.get(extent)
                assert (extent, epoch) in life.closed or hold is None or hold.epoch <= epoch
                assert hold is not None or (extent, epoch) in life.closed
        for extent, hold in consumer.holds.items():
            term = (extent, hold.epoch)
            grants = message.leases if isinstance(message, Granted) else ()
            later = [g.expires for g in grants if (g.extent, g.epoch) == term]
            life.expires[term] = max([life.expires[term], *later])
            assert hold.expires == life.expires[term]
            assert hold.draining == (term in life.left)
            assert not consumer.may_write(hold.expires, extent, hold.epoch)
            assert consumer.may_write(hold.expires - 1, extent, hold.epoch) is not hold.draining
